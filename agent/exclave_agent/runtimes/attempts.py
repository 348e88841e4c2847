"""A request's way through the deaths of its worker: tried again once, alone, and then no more."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

import msgspec

from exclave_agent.errors import AgentError, DeadlineExceeded, WorkerCrashed
from exclave_agent.ports import Clock, Delta, Finished
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.kept import KeptModel
from exclave_agent.runtimes.process import Answer, DiedHolding, Worker
from exclave_agent.runtimes.quarantine import Quarantine, quarantined

Question = frames.Infer | frames.Embed | frames.Rerank


@dataclass(frozen=True, slots=True)
class Attempts:
    """How every request of the agent reaches its worker."""

    quarantine: Quarantine
    clock: Clock
    call_id: Callable[[], str]
    """Names tool calls."""

    async def ask(self, model: KeptModel, question: Question) -> Answer:
        """One question, one answer. Raises: as `ports.ModelSet.infer`."""
        case = _Case(self.quarantine, model, question)
        while True:
            try:
                alone = case.alone()
                if not alone and (there := model.at_once()) is not None:
                    try:
                        return await case.ask(there, question)
                    finally:
                        model.done()
                async with model.lease(alone=alone, timeout=None) as worker:
                    # Whoever waited behind its own twin may find itself in quarantine.
                    case.alone()
                    return await case.ask(worker, question)
            except DiedHolding as death:
                case.died(death)

    async def stream(
        self, model: KeptModel, question: frames.Generate, timeout: float | None
    ) -> AsyncGenerator[Delta | Finished, None]:
        """A generation; once any of it was delivered it is not tried again.

        Raises: as `ports.ModelSet.generate`.
        """
        case = _Case(self.quarantine, model, question)
        began = self.clock.monotonic()
        spoken = False
        while True:
            try:
                async with model.lease(alone=case.alone(), timeout=self._left(began, timeout)) as (
                    worker
                ):
                    case.alone()
                    left = self._left(began, timeout)
                    frame = msgspec.structs.replace(
                        question,
                        id=worker.next_id(),
                        timeout_us=None if left is None else round(left * 1e6),
                    )
                    with case.before(worker):
                        events = worker.stream(frame, self.call_id)
                        async with contextlib.aclosing(events):
                            async for event in events:
                                if isinstance(event, Finished):
                                    case.answered()
                                spoken = True
                                yield event
                return
            except DiedHolding as death:
                case.died(death, again=not spoken)

    def _left(self, began: float, timeout: float | None) -> float | None:
        """Seconds of the caller's own time."""
        if timeout is None:
            return None
        left = timeout - (self.clock.monotonic() - began)
        if left <= 0:
            raise DeadlineExceeded("the request's own time ran out before the model took it")
        return left


class _Case:
    """One request's record."""

    def __init__(
        self, quarantine: Quarantine, model: KeptModel, question: Question | frames.Generate
    ) -> None:
        self._quarantine = quarantine
        self._model = model
        self._question = question
        self._fingerprint: bytes | None = None
        self._again = False
        self._answered = False

    @property
    def caller(self) -> str:
        """See `suspects.Request`."""
        return self._question.caller if isinstance(self._question, frames.Generate) else ""

    def fingerprint(self) -> bytes:
        """See `suspects.Request`."""
        if self._fingerprint is None:
            self._fingerprint = self._quarantine.fingerprint(
                self._model.spec.sha256, self._question
            )
        return self._fingerprint

    def alone(self) -> bool:
        """Whether it must run alone. Raises: Quarantined."""
        suspected = bool(self._quarantine) and self._quarantine.check(self.fingerprint())
        return suspected or self._again

    async def ask(self, worker: Worker, question: Question) -> Answer:
        """The worker's answer."""
        with self.before(worker):
            answer = await worker.ask(msgspec.structs.replace(question, id=worker.next_id()))
            self.answered()
        return answer

    @contextlib.contextmanager
    def before(self, worker: Worker) -> Iterator[None]:
        """While the worker has it, and a moment longer where its caller gives it up, a death of
        the worker may be its doing."""
        worker.suspects.take(self)
        try:
            yield
        except DiedHolding:
            raise
        except AgentError:
            worker.suspects.answered(self)
            raise
        finally:
            if self._answered:
                worker.suspects.answered(self)
            else:
                worker.suspects.give_up(self)

    def answered(self) -> None:
        """It was: nothing speaks against it."""
        self._answered = True
        self._model.answered = True
        if self._quarantine:
            self._model.acquit(self.fingerprint())

    def died(self, death: DiedHolding, *, again: bool = True) -> None:
        """Its worker died with it in flight. Returns if it may be tried once more, which is then
        the last time.

        Raises: Quarantined, WorkerCrashed.
        """
        crashed = WorkerCrashed(death.message, retry_after=death.retry_after)
        if self._model.stopping:
            raise crashed from None
        if death.sure:
            self._model.accuse(self.fingerprint(), death.worker)
        if self._quarantine.guilty(self.fingerprint()):
            raise quarantined() from None
        if self._again or not again:
            raise crashed from None
        self._again = True
