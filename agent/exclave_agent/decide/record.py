"""Record: write the two leaves of each decision, and lose neither when a caller goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from exclave_agent.errors import (
    AgentError,
    OutputInvalid,
    PolicyDenied,
    StorageError,
    TooManyTokens,
    unforeseen,
)
from exclave_agent.ports import ActiveRelease, Appended, AuditLog, Clock, LeafDraft, ModelInfo
from exclave_protocol.canonical import JsonValue

from . import bodies
from .authorize import action_of
from .calls import Call, DecisionMetrics, Receipt
from .overlap import IntentTask

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Recorder:
    """Owns every append in flight.

    MUST: a RESULT whose INTENT became durable is written whether or not the caller stays,
    unless storage refuses it. Leaving the `async with` waits for the appends in flight, even
    when the block was cancelled; a second cancellation gives them up (the storage's start-up
    then finds the dangling INTENT).
    """

    def __init__(self, log: AuditLog, clock: Clock, metrics: DecisionMetrics) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._tasks = asyncio.TaskGroup()
        self._constants = bodies.Constants.none()

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The group would cancel its tasks if it were told of the block's error.
        await self._tasks.__aexit__(None, None, None)

    def open(self, release: ActiveRelease, call: Call) -> Entry:
        """Begin the record of one decision; writes nothing yet."""
        if self._constants.release is not release:
            self._constants = bodies.Constants.of(release)
        return Entry(self, self._constants, call, self._clock.now_ns(), self._clock.monotonic())

    def elapsed(self, since: float) -> float:
        """Seconds since a `Clock.monotonic`."""
        return self._clock.monotonic() - since

    async def append(self, draft: LeafDraft) -> Appended:
        """Return once the leaf is durable. Raises: StorageError."""
        return await self._log.append(draft)

    def count(self, call: Call, outcome: str, known: bool, seconds: float, tokens: Tokens) -> None:
        """Count one decision that has ended."""
        self._metrics.decided(
            action=action_of(call),
            model=call.model if known else "",
            outcome=outcome,
            seconds=seconds,
            tokens_in=tokens[0] or 0,
            tokens_out=tokens[1] or 0,
        )

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T | StorageError]:
        """Run `work` in the group. Its failure is its value: it never ends the group."""
        return self._tasks.create_task(_contained(work))


Tokens = tuple[int | None, int | None]
"""In and out; None: not known, because the model did not finish."""


async def _contained(work: Coroutine[Any, Any, T]) -> T | StorageError:
    try:
        return await work
    except StorageError as error:
        return error
    except Exception as error:  # noqa: BLE001  # a bug in one record must not end the others
        _log.error("a record failed: %s", unforeseen(error))
        refused = StorageError("the record could not be made", code="record_failed")
        refused.__cause__ = error
        return refused


class Entry:
    """The record of one decision in the making: at most one INTENT, exactly one RESULT."""

    __slots__ = (
        "_call",
        "_constants",
        "_first_us",
        "_intent",
        "_known",
        "_recorder",
        "_result",
        "_started",
        "_text",
        "received_ns",
        "rule",
    )

    def __init__(
        self,
        recorder: Recorder,
        constants: bodies.Constants,
        call: Call,
        received_ns: int,
        started: float,
    ) -> None:
        self._recorder = recorder
        self._constants = constants
        self._call = call
        self._started = started
        self._known = call.model in constants.models
        self._intent: IntentTask | None = None
        self._result: asyncio.Task[Receipt | StorageError | None] | None = None
        self._text: list[str] = []
        self._first_us: int | None = None
        self.received_ns = received_ns
        self.rule = ""
        """The policy's rule, once it has spoken."""

    def intend(self, info: ModelInfo, params: dict[str, JsonValue]) -> IntentTask:
        """Start to write the INTENT: this call is about to be computed by that model."""
        call, constants = self._call, self._constants
        draft = LeafDraft(
            "INTENT",
            bodies.intent(constants, call, info, self.rule, params, self.received_ns),
            bodies.asked(call),
            call.subject,
        )
        self._intent = self._recorder.spawn(self._recorder.append(draft))
        return self._intent

    def wrote(self, text: str) -> None:
        """Remember a piece of the answer: it is recorded even if the rest never comes."""
        if self._first_us is None:
            self._first_us = int(self._recorder.elapsed(self._started) * 1e6)
        self._text.append(text)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    async def answered(self, finish: str, output: JsonValue, tokens: Tokens) -> Receipt:
        """Write the RESULT of a decision that was answered.

        MUST have returned before the end of the answer leaves. Raises: StorageError.
        """
        self._result = self._settle("answered", "", finish, output, tokens)
        receipt = await asyncio.shield(self._result)
        if isinstance(receipt, StorageError):
            raise receipt
        assert receipt is not None, "an answer has an intent"
        return receipt

    async def ended(self, error: BaseException) -> None:
        """Write the RESULT of a decision that `error` ended; call it for every error.

        A caller that has gone is not waited for: the recorder's group finishes the write.
        Raises: StorageError when the result could not be written, in place of `error`.
        """
        if self._result is not None:
            return  # the RESULT is on its way, or was refused: that is the error
        outcome, reason = outcome_of(error, intended=self._intent is not None)
        output: JsonValue = self.text if self._text else None
        self._result = self._settle(outcome, reason, None, output, (None, None))
        if outcome == "cancelled":
            return
        receipt = await asyncio.shield(self._result)
        if isinstance(receipt, StorageError) and receipt is not error:
            raise receipt from None

    def _settle(
        self, outcome: str, reason: str, finish: str | None, output: JsonValue, tokens: Tokens
    ) -> asyncio.Task[Receipt | StorageError | None]:
        seconds = self._recorder.elapsed(self._started)
        return self._recorder.spawn(self._write(outcome, reason, finish, output, tokens, seconds))

    async def _write(
        self,
        outcome: str,
        reason: str,
        finish: str | None,
        output: JsonValue,
        tokens: Tokens,
        seconds: float,
    ) -> Receipt | None:
        """Append the RESULT after its INTENT. Raises: StorageError of either."""
        recorded = "unrecorded"
        try:
            intent = await self._intent if self._intent is not None else None
            if isinstance(intent, StorageError):
                raise intent  # nothing was let out, and there is nothing to conclude
            call = self._call
            body: dict[str, JsonValue] = {
                "decision": call.decision,
                "intent": None if intent is None else str(intent.seq),
                "outcome": outcome,
                "reason": reason,
                "finish": finish,
                "policy": {"digest": self._constants.policy_digest, "rule": self.rule},
                "tokens_in": tokens[0],
                "tokens_out": tokens[1],
                "latency_us": int(seconds * 1e6),
                "first_us": self._first_us,
            }
            private: dict[str, JsonValue] = {}
            if intent is None:
                body |= bodies.refused(self._constants, call, self._known, self.received_ns)
                private = bodies.asked(call)
                if not self._known:
                    private["model"] = call.model
            if output is not None:
                private["output"] = output
            draft = LeafDraft("RESULT", body, private, call.subject)
            result = await self._recorder.append(draft)
            recorded = outcome
        finally:
            self._recorder.count(self._call, recorded, self._known, seconds, tokens)
        if intent is None:
            return None
        return Receipt(call.decision, result.epoch, intent.seq, result.seq)


def outcome_of(error: BaseException, *, intended: bool) -> tuple[str, str]:
    """The RESULT's outcome and reason code for an error that ended a decision."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled", "client_gone"
    if not isinstance(error, AgentError):
        return "failed", "internal"
    if isinstance(error, OutputInvalid):
        return "invalid", error.code
    if isinstance(error, PolicyDenied) or (isinstance(error, TooManyTokens) and not intended):
        return "denied", error.code
    return "failed", error.code
