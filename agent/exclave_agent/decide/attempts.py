"""Attempts: ask a plan's targets in order until one of them answers.

Another target is asked only while nothing of an answer has left: after that, the stream ends with
its error. Every attempt after the first, hedges too, spends a token of the route's retry budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

from exclave_agent.errors import AgentError
from exclave_agent.ports import Clock, Delta, ModelSet

from .contender import Contender, Times, may_fall_back
from .examine import Examiner, GuardFailed
from .jobs import Job
from .overlap import IntentTask
from .plan import Choice, Plan

E = TypeVar("E")


class Attempts(Generic[E]):
    """Use `run` once; then `winner` is who answered, or `error` says why nobody did."""

    def __init__(
        self,
        plan: Plan,
        job: Job[E],
        models: ModelSet,
        intent: IntentTask,
        clock: Clock,
        deadline: float | None,
        on_ask: Callable[[Contender[E]], None],
        examiner: Examiner,
    ) -> None:
        """`deadline`: of the caller, the loop's time. `on_ask`: told whose answer is being
        made from now on."""
        self.plan = plan
        self.job = job
        self._models = models
        self._intent = intent
        self._clock = clock
        self._deadline = deadline
        self._queue = deque(plan.choices)
        self._asked = 0
        self._left = False
        self.winner: Contender[E] | None = None
        self.error: AgentError | None = None
        """The last one that let another target be asked."""
        self.escalated: GuardFailed | None = None
        """What hands the decision to a person, instead of an answer."""
        self._on_ask = on_ask
        self._examiner = examiner

    async def run(self) -> AsyncGenerator[Delta, None]:
        """What may leave at once. Raises: what ends the decision whoever else could answer."""
        self.plan.retries.deposit()
        while (contender := self._contend()) is not None:
            self._on_ask(contender)
            try:
                contender, event = await self._begin(contender)
                draft = contender.draft
                while True:  # each token comes through here
                    delta = draft.take(event)
                    if delta is not None:
                        self._left = True
                        yield delta
                    if draft.done:
                        break
                    event = await contender.next()
                draft.check()
                await self._examine(contender)
            except AgentError as error:
                contender.failed(error)
                if self._left:
                    raise
                if not self._repairs(contender, error):
                    self._passed_over(contender.choice, error)
                continue
            except BaseException as error:  # cancellation too: its permit must end
                contender.failed(error)
                raise
            else:
                contender.succeeded()  # before the next await: whoever leaves now has had it all
            finally:
                await contender.close()
            self.winner = contender
            return

    async def _examine(self, contender: Contender[E]) -> None:
        """Raises: GuardFailed, Unavailable."""
        choice = contender.choice
        said = contender.draft.said() if choice.validators else None
        if said is not None:
            # Its place at the model is free again: whoever judges it may need that very one.
            await contender.close()
            await self._examiner.examine(choice, said)

    def _repairs(self, contender: Contender[E], error: AgentError) -> bool:
        """Whether its target is asked once more, and told what a validator found."""
        choice = contender.choice
        if not isinstance(error, GuardFailed) or not error.repair or choice.repaired:
            return False
        if not self.job.repair(choice, contender.draft, error.reasons):
            return False
        choice.repaired = True
        self._queue.appendleft(choice)
        self.error = error
        return True

    def _passed_over(self, choice: Choice, error: AgentError) -> None:
        """A target has failed. Raises: what ends the decision, whoever else could answer."""
        if choice.repaired and may_fall_back(error) and self.error is not None:
            # A repair that did not come about is one that failed: the validator's word holds.
            error = self.error
        if isinstance(error, GuardFailed) and error.otherwise == "escalate":
            self.escalated = error
            self._queue.clear()
        elif not may_fall_back(error):
            raise error
        else:
            self.error = error

    def _contend(self) -> Contender[E] | None:
        """The next target, if there is one that may be asked now."""
        while self._queue:
            choice, now = self._queue.popleft(), self._clock.monotonic()
            if not choice.breaker.admits(now):
                self.plan.skip(choice.place, "open")
                if choice.repaired:
                    assert self.error is not None, "it is asked again for a reason"
                    self._passed_over(choice, self.error)
                continue
            # A repair is the validator's word, and not the route's to ration.
            if self._asked and not choice.repaired and not self._may_retry():
                return None
            permit = choice.breaker.acquire(now)
            assert permit is not None, "nothing ran since it was admitted"
            self._asked += not choice.repaired
            times = Times(self._clock, self._deadline, choice.target.timeout_ms)
            events = self.job.ask(self._models, choice, times.left())
            draft = self.job.draft(choice)
            contender = Contender(choice, permit, draft, events, self._intent, times, now)
            self.plan.attempts.append(contender.attempt)
            return contender
        return None

    def _may_retry(self) -> bool:
        retries = self.plan.retries
        return self._asked < retries.rule.attempts and retries.withdraw()

    async def _begin(self, contender: Contender[E]) -> tuple[Contender[E], E]:
        """The first event, and whose: another's where this one is hedged."""
        hedge = contender.choice.target.hedge_after_ms
        if hedge is None or contender.choice.repaired:
            return contender, await contender.next()
        contender, event = await self._race(contender, hedge / 1e3)
        self._on_ask(contender)
        return contender, event

    async def _race(self, first: Contender[E], after: float) -> tuple[Contender[E], E]:
        """Whoever begins to answer first, and its first event; the others are cancelled.

        Raises: the last one's error when all of them failed.
        """
        running: dict[asyncio.Task[E | Exception], Contender[E]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                running[group.create_task(self._begun(first))] = first
                done, _ = await asyncio.wait(running, timeout=after)
                second = self._contend() if not done else None
                if second is not None:
                    running[group.create_task(self._begun(second))] = second
                contender, event = await _first_of(running)
            for task, other in running.items():
                if other is not contender:
                    outcome = None if task.cancelled() else task.result()
                    if isinstance(outcome, Exception):
                        other.failed(outcome)
                    else:
                        other.lost()
                    await other.close()
            if isinstance(event, Exception):
                raise event
        except BaseException as error:  # cancellation too, at any of the awaits
            for each in running.values():
                each.failed(error)
                await each.close()
            raise
        return contender, event

    async def _begun(self, contender: Contender[E]) -> E | Exception:
        """Its first event, or why there is none: one contender's error must not end the other."""
        try:
            return await contender.next()
        except Exception as error:  # noqa: BLE001  # a value: whoever waits for it raises it
            return error


async def _first_of(
    running: dict[asyncio.Task[E | Exception], Contender[E]],
) -> tuple[Contender[E], E | Exception]:
    """The first that does not fail, else the last that does; what still runs is cancelled."""
    pending = set(running)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        ended = [(running[task], task.result()) for task in running if task in done]
        good = [each for each in ended if not isinstance(each[1], Exception)]
        final = [each for each in ended if isinstance(each[1], Exception) and _final(each[1])]
        if good or final or not pending:
            for other in pending:
                other.cancel()
            return (good or final or ended)[0]


def _final(error: Exception) -> bool:
    return not (isinstance(error, AgentError) and may_fall_back(error))
