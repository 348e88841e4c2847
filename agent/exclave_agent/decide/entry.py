"""Entry: what the two leaves of one decision say, and that each of them is written once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from exclave_agent.errors import StorageError
from exclave_agent.ports import (
    NO_TIMING,
    Appended,
    Decided,
    LeafDraft,
    LedgerEntry,
)
from exclave_policy.kinds.retention import RetentionClass
from exclave_policy.model import Decision, Request
from exclave_policy.recorded import explained
from exclave_policy.schema import CONTENT
from exclave_protocol.approval import HELD
from exclave_protocol.canonical import JsonValue

from . import bodies
from .authorize import action_of
from .calls import Call, GenerateCall, Receipt
from .ends import End, outcome_of
from .jobs import Answer
from .notes import Notes
from .overlap import IntentTask
from .plan import Choice, Plan
from .retain import class_of

if TYPE_CHECKING:
    from .record import Recorder


class Drafted(Protocol):
    """What is being answered: as much of `contender.Contender` as the record needs."""

    @property
    def first_at(self) -> float | None:
        """When its first piece came (`Clock.monotonic`); None: not yet."""
        ...

    def output(self) -> JsonValue | None:
        """Its answer so far; None: nothing."""
        ...


class Entry:
    """The record of one decision in the making: at most one INTENT, exactly one RESULT."""

    __slots__ = (
        "_call",
        "_constants",
        "_current",
        "_discarded",
        "_held",
        "_intent",
        "_recorder",
        "_result",
        "_started",
        "notes",
        "outcome",
        "plan",
        "received_ns",
        "request",
        "verdict",
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
        self._held: list[Choice] = []
        self._intent: IntentTask | None = None
        self._result: asyncio.Task[Receipt | StorageError | None] | None = None
        self.received_ns = received_ns
        self.request: Request | None = None
        """What the policy was asked about the name that was asked for."""
        self.verdict: Decision | None = None
        """What it said."""
        self.plan: Plan | None = None
        """Who may answer, once that is known."""
        self._current: Drafted | None = None
        self._discarded: list[JsonValue] = []
        self.notes = Notes()
        """What the guards found."""
        self.outcome = ""
        """As in the RESULT, once it is known."""

    def asks(self, drafted: Drafted) -> None:
        """Whose answer is being made from now on: it is recorded even if the rest never comes.
        What another one had made is recorded too."""
        if drafted is not self._current:
            self._discard()
        self._current = drafted

    def _discard(self) -> None:
        output = None if self._current is None else self._current.output()
        if output is not None:
            self._discarded.append(output)

    def hold(self, choice: Choice) -> None:
        """Answer for its reservation: it is settled, released or dropped with the RESULT."""
        self._held.append(choice)

    def intend(self, params: dict[str, JsonValue]) -> IntentTask:
        """Start to write the INTENT: this call is about to be answered as its plan says."""
        assert self.plan is not None, "there is a plan before an intent"
        call, ledger = self._call, [_reserved(choice) for choice in self._held]
        draft = LeafDraft(
            "INTENT",
            bodies.intent(self._constants, call, self.plan, self.verdict, params, self.received_ns)
            | self._retained()
            | self._final(),
            bodies.asked(call) | bodies.sent(self.plan) | self._explained(),
            call.subject,
            tuple(entry for entries in ledger for entry in entries),
        )
        self._recorder.begins(call.decision)
        self._intent = self._recorder.spawn(self._recorder.append(draft))
        return self._intent

    async def answered(self, answer: Answer) -> Receipt:
        """Write the RESULT of a decision that was answered.

        MUST have returned before the end of the answer leaves. Raises: StorageError.
        """
        self._result = self._settle("answered", "", answer)
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
        self._result = self._settle(outcome, reason, None)
        if outcome == "cancelled":
            return
        receipt = await asyncio.shield(self._result)
        if isinstance(receipt, StorageError) and receipt is not error:
            raise receipt from None

    def _settle(
        self, outcome: str, reason: str, answer: Answer | None
    ) -> asyncio.Task[Receipt | StorageError | None]:
        self.outcome = outcome
        end = End(outcome, reason, answer, self._recorder.elapsed(self._started))
        if self._current is not None:
            first = self._current.first_at
            end.first = None if first is None else first - self._started
            end.output = self._current.output()
        if self.notes.approvals:  # it waits: nobody is given it now
            end.held, end.output = end.output, None
        elif answer is not None and answer.info is None:  # nobody's answer was good enough
            self._discard()
        if answer is not None:
            end.output = answer.output
        return self._recorder.spawn(self._write(end))

    async def _write(self, end: End) -> Receipt | None:
        """Append the RESULT after its INTENT. Raises: StorageError of either."""
        recorded, call = "unrecorded", self._call
        try:
            intent = await self._intent if self._intent is not None else None
            if isinstance(intent, StorageError):
                raise intent  # nothing was let out, and there is nothing to conclude
            ledger = () if intent is None else self._used(end)
            draft = LeafDraft(
                "RESULT", self._body(end, intent), self._private(end, intent), call.subject, ledger
            )
            result = await self._recorder.append(draft)
            recorded = end.outcome
        finally:
            self._recorder.ends(call.decision)
            for choice in self._held:  # those that are settled stay so
                if choice.reservation is not None:
                    choice.reservation.drop()
            self._recorder.count(self._decided(end, recorded))
        if intent is None:
            return None
        return Receipt(call.decision, result.epoch, intent.seq, result.seq)

    def _used(self, end: End) -> tuple[LedgerEntry, ...]:
        """Settle what was held: the differences to what was used, and its cost."""
        entries: list[LedgerEntry] = []
        for choice in self._held:
            held, usage, price = choice.reservation, choice.usage, choice.info.price
            if usage is not None and price is not None:
                end.charge(price, usage, None if held is None else held.worst)
            if held is None:
                continue
            if usage is None:
                entries += held.release()
            else:
                entries += held.settle(usage.prompt, usage.completion, usage.cached, price)
        return tuple(entries)

    def _body(self, end: End, intent: Appended | None) -> dict[str, JsonValue]:
        answer, plan = end.answer, self.plan
        body: dict[str, JsonValue] = {
            "decision": self._call.decision,
            "intent": None if intent is None else str(intent.seq),
            "outcome": end.outcome,
            "reason": end.reason,
            "finish": None if answer is None else answer.finish,
            "policy": bodies.ruled(self._constants, self.verdict),
            "tokens_in": None if answer is None else answer.prompt_tokens,
            "tokens_out": None if answer is None else answer.completion_tokens,
            "latency_us": int(end.seconds * 1e6),
            "first_us": None if end.first is None else int(end.first * 1e6),
        }
        made = () if plan is None else plan.attempts
        body |= bodies.answered_by(self._constants, answer, made)
        body["cost"] = end.cost()
        body |= self.notes.body()
        body |= self._retained() | self._final()
        if intent is None:
            body |= bodies.refused(
                self._constants, self._call, self._route_name() or None, self.received_ns
            )
        return body

    def _private(self, end: End, intent: Appended | None) -> dict[str, JsonValue]:
        private: dict[str, JsonValue] = {}
        if intent is None:
            private = bodies.asked(self._call) | self._explained()
            if not self._known():
                private["model"] = self._call.model
        if end.output is not None:
            private["output"] = end.output
        if end.held is not None:
            private[HELD] = end.held
        if self._discarded:
            private["discarded"] = self._discarded
        return private

    @property
    def retention(self) -> RetentionClass | None:
        """How long its values are kept; None: there is no end."""
        obliged = [] if self.verdict is None else [self.verdict.obligations]
        obliged += [choice.obligations for choice in self._held]
        return class_of(self._constants.policy, self._call, obliged)

    def _retained(self) -> dict[str, JsonValue]:
        found = self.retention
        return {} if found is None else {"retention": found.name}

    def _final(self) -> dict[str, JsonValue]:
        """How many witnesses the record needs before the decision is final."""
        policy = self._constants.policy
        finality = None if policy is None else policy.finality
        found = None if finality is None else finality.of(self._call.data_class)
        if found is None:
            return {}
        return {"finality": {"class": found.name, "witnesses": found.witnesses}}

    def _explained(self) -> dict[str, JsonValue]:
        if self.request is None or self.verdict is None:
            return {}
        policy = self._constants.policy
        if policy is None:
            return {}
        return {"policy": explained(policy, self.request, self.verdict, CONTENT)}

    def _known(self) -> bool:
        """Whether what was asked for is a signed name."""
        return self._call.model in self._constants.models or bool(self._route_name())

    def _route_name(self) -> str:
        routes = self._constants.routes
        return self._call.model if self._call.model in routes else ""

    @property
    def rule(self) -> str:
        """The policy's rule; "" before it has spoken."""
        return "" if self.verdict is None else self.verdict.rule

    @property
    def names(self) -> tuple[str, str]:
        """Model and route asked for, where they are signed names: never a caller's text."""
        return self._call.model if self._call.model in self._constants.models else "", (
            self._route_name()
        )

    def _decided(self, end: End, recorded: str) -> Decided:
        answer, plan, call = end.answer, self.plan, self._call
        model, route = self.names
        if answer is not None:
            model = "" if answer.info is None else answer.info.name
        elif plan is not None and plan.choices:
            model = plan.choices[0].info.name
        asked = 0 if plan is None else sum(each.asked for each in plan.attempts)
        return Decided(
            action=action_of(call),
            model=model,
            route=route,
            outcome=recorded,
            seconds=end.seconds,
            first_seconds=end.first,
            tokens_in=0 if answer is None else answer.prompt_tokens,
            tokens_out=0 if answer is None else answer.completion_tokens,
            cached_tokens=0 if answer is None else answer.cached_tokens,
            timing=NO_TIMING if answer is None else answer.timing,
            cache="" if answer is None else answer.cache,
            degraded="" if answer is None else answer.degraded,
            attempts=asked,
            cost_micro=end.cost_micro,
            currency=end.currency,
            priority=call.priority if isinstance(call, GenerateCall) else "interactive",
        )


def _reserved(choice: Choice) -> tuple[LedgerEntry, ...]:
    return () if choice.reservation is None else choice.reservation.entries()
