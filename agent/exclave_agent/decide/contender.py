"""Contender: one target that is being asked, and what its end says about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from exclave_agent.errors import (
    AgentError,
    DeadlineExceeded,
    NoMemory,
    NoRelease,
    NoTarget,
    OutputInvalid,
    Overloaded,
    RemoteFailed,
    RequestError,
    TooManyTokens,
    Unavailable,
    WorkerCrashed,
)
from exclave_agent.ports import Clock
from exclave_protocol.canonical import JsonValue

from .breaker import Fault, Permit
from .examine import GuardFailed
from .infer import begun
from .jobs import Answer, Draft
from .overlap import IntentTask
from .plan import Attempt, Choice, Usage

E = TypeVar("E")

_REFUSED = frozenset(
    {"remote_unreachable", "remote_refused", "remote_unauthorized", "remote_overloaded"}
)
"""A provider that says this has computed nothing."""
_NOT_ITS_FAULT = frozenset({"remote_refused", "remote_overloaded"})
LATE = "target_timeout"
"""A target's own time ran out, not the caller's."""
UNSURE = "low_confidence"


def may_fall_back(error: AgentError) -> bool:
    """Whether another target may do better. A wrong request is wrong everywhere, and one that
    kills workers is not passed on."""
    if isinstance(error, DeadlineExceeded):
        return error.code == LATE
    if isinstance(error, GuardFailed):
        return error.otherwise == "fall_back"
    if isinstance(error, OutputInvalid | TooManyTokens):
        return True
    return isinstance(error, Unavailable) and not isinstance(error, NoRelease)


def fault_of(error: BaseException) -> Fault | None:
    """What an error says about its target; None: nothing. A full queue and a lack of memory are
    no faults: a target that works to its limit must not be closed to those it still serves."""
    if isinstance(error, OutputInvalid):
        return "invalid"
    if isinstance(error, Overloaded | NoMemory) or not isinstance(error, Unavailable):
        return None
    if isinstance(error, DeadlineExceeded) and error.code != LATE:
        return None
    if isinstance(error, RemoteFailed) and error.code in _NOT_ITS_FAULT:
        return None
    return None if error.code == UNSURE else "errors"


def computed(error: BaseException) -> bool:
    """Whether an attempt that ended so may have cost something."""
    if isinstance(error, OutputInvalid):
        return True
    if isinstance(error, RequestError | Overloaded | NoMemory):
        return False
    return not (isinstance(error, RemoteFailed) and error.code in _REFUSED)


class Contender(Generic[E]):
    """One target that is being asked."""

    def __init__(
        self,
        choice: Choice,
        permit: Permit,
        draft: Draft[E],
        events: AsyncGenerator[E, None],
        intent: IntentTask,
        times: Times,
        now: float,
    ) -> None:
        """`now`: of `Clock.monotonic`, when it is asked."""
        self.choice = choice
        self.draft = draft
        self.first_at: float | None = None
        """When the first piece of its answer came (`Clock.monotonic`)."""
        self.attempt = Attempt(choice.info.name, "", choice.place, asked=True)
        self._answer: Answer | None = None
        self._permit = permit
        self._events = events
        self._intent = intent
        self._times = times
        self._started = now

    async def next(self) -> E:
        """The next event. Raises: DeadlineExceeded, and what the model raises."""
        try:
            if self._times.ends is None:
                if self.first_at is not None:  # each token comes through here
                    return await anext(self._events)
                return await self._next()
            async with asyncio.timeout_at(self._times.ends) as scope:
                return await self._next()
        except TimeoutError:
            if self._times.ends is None or not scope.expired():
                raise
            raise self._times.late() from None
        except DeadlineExceeded as error:
            raise self._times.late() from error
        except StopAsyncIteration:
            raise WorkerCrashed("the model ended without an answer: try again") from None

    async def _next(self) -> E:
        if self.first_at is not None:
            return await anext(self._events)
        event = await begun(self._events, self.choice.info, self._intent)
        self.first_at = self._times.clock.monotonic()
        return event

    @property
    def latency(self) -> float | None:
        """Seconds until the first piece of its answer; None: there is none yet."""
        return None if self.first_at is None else self.first_at - self._started

    def output(self) -> JsonValue | None:
        """Its answer so far; None: nothing."""
        return self.draft.output()

    async def close(self) -> None:
        """Free what it holds."""
        await self._events.aclose()

    @property
    def answer(self) -> Answer:
        """Its complete answer."""
        if self._answer is None:
            self._answer = self.draft.answer(self.choice.info)
        return self._answer

    def succeeded(self) -> None:
        """It answered, and the answer is good."""
        now = self._times.clock.monotonic()
        self._permit.succeeded(now, self.latency or 0.0)
        if self._note("answered", now):
            self._count()

    def failed(self, error: BaseException) -> None:
        """It ended with an error, or was cancelled. The first end counts."""
        fault, now = fault_of(error), self._times.clock.monotonic()
        if fault is not None:
            self._permit.failed(now, fault, self.latency)
        elif isinstance(error, NoTarget) and self.latency is not None:
            self._permit.succeeded(now, self.latency)  # unsure, and in good health
        elif isinstance(error, DeadlineExceeded | asyncio.CancelledError | GeneratorExit):
            self._abandoned(now)
        else:
            self._permit.void()
        if self._note(_outcome(error), now):
            if self.draft.done:
                self._count()
            elif computed(error):
                self.choice.used(Usage())

    def lost(self) -> None:
        """Another one began to answer first."""
        now = self._times.clock.monotonic()
        self._abandoned(now)
        if self._note("hedge_lost", now):
            self.choice.used(Usage())

    def _abandoned(self, now: float) -> None:
        if self.first_at is None:
            self._permit.abandoned(now, now - self._started)
        else:
            self._permit.void()

    def _count(self) -> None:
        answer = self.answer
        self.choice.used(
            Usage(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        )

    def _note(self, outcome: str, now: float) -> bool:
        if self.attempt.outcome:
            return False
        self.attempt.outcome = outcome
        self.attempt.us = int((now - self._started) * 1e6)
        return True


def _outcome(error: BaseException) -> str:
    if isinstance(error, AgentError):
        return "unsure" if error.code == UNSURE else error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"


class Times:
    """When an attempt, and the whole decision, must have ended (the loop's time, seconds)."""

    def __init__(self, clock: Clock, caller: float | None, timeout_ms: int | None) -> None:
        self.clock = clock
        self.ends = caller
        if timeout_ms is not None:
            own = _now() + timeout_ms / 1e3
            self.ends = own if caller is None else min(caller, own)
        self._caller = caller

    def left(self) -> float | None:
        """Seconds; None: no limit."""
        return None if self.ends is None else self.ends - _now()

    def late(self) -> DeadlineExceeded:
        """Whose time ran out: of the two limits, the nearer one's."""
        if self._caller is not None and self.ends == self._caller:
            return DeadlineExceeded("the time that the caller gave ran out before the answer")
        return DeadlineExceeded("the model did not answer within its time", code=LATE)


def _now() -> float:
    return asyncio.get_running_loop().time()
