"""The decision path, in order: look > authorize > route > redact > budget > cache > infer >
validate > record.

No path leads around a step. Whatever ends a decision after `Recorder.open`, its RESULT is
written, or the caller is told that it could not be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from exclave_agent.errors import BudgetExceeded, DeadlineExceeded, InputRefused
from exclave_agent.ports import (
    ActiveRelease,
    AuditLog,
    BreakerView,
    Clock,
    DecisionMetrics,
    Delta,
    Embeddings,
    Ids,
    ModelSet,
    NoTracer,
    RedactionKeys,
    Referrals,
    Releases,
    Scores,
    Tensor,
    Tracer,
)
from exclave_policy.kinds.validators import Validator

from . import bodies, spans
from .attempts import Attempts
from .authorize import enforce, request_of
from .budget import Budgets, budget
from .cache import Cache
from .calls import (
    Answered,
    Call,
    EmbedAnswer,
    EmbedCall,
    GenerateCall,
    InferAnswer,
    InferCall,
    Receipt,
    RerankAnswer,
    RerankCall,
)
from .degrade import Handover, nobody, stands_in
from .examine import Examiner, computed
from .guards import Guards, NoKeys
from .jobs import Answer, GenerateJob, Job, Told, WholeJob
from .plan import Choice, Plan
from .record import Recorder
from .reuse import keep, kept_answer
from .route import Router
from .underway import Underway
from .worst import repair_room, twice, worst_case

C = TypeVar("C", EmbedCall, RerankCall, InferCall)
E = TypeVar("E")
T = TypeVar("T")


class Pipeline:
    """Use as `async with Pipeline(...) as pipeline`: leaving waits for records in flight."""

    def __init__(
        self,
        releases: Releases,
        log: AuditLog,
        clock: Clock,
        ids: Ids,
        metrics: DecisionMetrics,
        *,
        budgets: Budgets | None = None,
        cache: Cache | None = None,
        referrals: Referrals | None = None,
        tracer: Tracer | None = None,
        keys: RedactionKeys | None = None,
    ) -> None:
        """`budgets`, `cache`: loaded. `referrals` None: nothing can be handed over to a person.
        `keys` None: nothing can be replaced by keyed tokens."""
        self._releases = releases
        self._clock = clock
        self._ids = ids
        self._recorder = Recorder(log, clock, metrics)
        self._router = Router()
        self._budgets = budgets
        self._cache = cache
        self._handover = Handover(referrals, clock)
        self._guards = Guards(keys or NoKeys())
        self._tracer = tracer or NoTracer()

    async def __aenter__(self) -> Pipeline:
        await self._recorder.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._guards.close()
        await self._recorder.__aexit__(kind, error, trace)

    def new_id(self) -> str:
        """A fresh decision id, 32 hex digits."""
        return self._ids.new()

    def live(self, decision: str) -> bool:
        """Whether a decision is being answered; see `Recorder.live`."""
        return self._recorder.live(decision)

    def live_count(self) -> int:
        """How many are."""
        return self._recorder.live_count

    def breakers(self) -> list[BreakerView]:
        """Every circuit breaker of the routes now."""
        return self._router.views(self._clock.monotonic())

    # --- what is asked ---------------------------------------------------------------------------

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Delta | Answered, None]:
        """Answer in pieces; the last event is `Answered`. Close it to stop the model.

        No `Delta` comes before the INTENT is durable, and no `Answered` before the RESULT. With
        `stream` off, a schema to hold the answer to, or an answer that no model gave just now,
        the text comes in one piece, after both.

        Raises: NoRelease, PolicyDenied, TooManyTokens, UnknownModel, BadRequest, BudgetExceeded,
        Quarantined, OutputInvalid, Overloaded, WorkerCrashed, RemoteFailed, DeadlineExceeded,
        NoMemory, NoTarget, StorageError.
        """
        with self._tracer.span("decide") as span, self._releases.lease() as release:
            decision = self._open(release, call, call.timeout)
            left = False
            try:
                attempts = await self._begin(decision, GenerateJob(call))
                if attempts is not None:
                    with self._tracer.span("infer") as inferring:
                        async with aclosing(attempts.run()) as deltas:
                            async for delta in deltas:
                                left = True
                                yield delta
                        spans.measure(inferring, attempts.plan, attempts.winner)
                    await self._conclude(decision, attempts)
                receipt, answer = await self._record(decision)
            except BaseException as error:  # cancellation too: every end has its record
                await decision.entry.ended(error)
                raise
            finally:
                spans.tell(span, decision.call, decision.entry, decision.answer)
            if self._cache is not None:  # nobody waits for that
                self._recorder.spawn(keep(self._cache, decision, call))
        if not left and (answer.text or answer.tool_calls):
            yield Delta(answer.text, answer.logprobs, answer.tool_calls)
        yield Answered(
            receipt,
            answer.finish,
            answer.prompt_tokens,
            answer.completion_tokens,
            model_digest="" if answer.info is None else answer.info.sha256,
            model="" if answer.info is None else answer.info.name,
            cached_tokens=answer.cached_tokens,
            tool_calls=answer.tool_calls,
            logprobs=answer.logprobs,
            cache=answer.cache,
            degraded=answer.degraded,
            timing=answer.timing,
            notices=decision.notices,
        )

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Vectors, recorded. Raises: as `stream`, without OutputInvalid."""

        async def run(models: ModelSet, model: str, call: EmbedCall) -> Embeddings:
            return await models.embed(model, call.texts)

        def tell(found: Embeddings) -> Told:
            return Told(bodies.vectors(found.vectors), found.prompt_tokens)

        receipt, found, notices = await self._at_once(call, run, tell)
        return EmbedAnswer(receipt, found.vectors, found.prompt_tokens, notices)

    async def rerank(self, call: RerankCall) -> RerankAnswer:
        """Scores, recorded. Raises: as `embed`."""

        async def run(models: ModelSet, model: str, call: RerankCall) -> Scores:
            return await models.rerank(model, call.query, call.documents)

        def tell(found: Scores) -> Told:
            return Told([bodies.decimal(score) for score in found.scores], found.prompt_tokens)

        receipt, found, notices = await self._at_once(call, run, tell)
        return RerankAnswer(receipt, found.scores, found.prompt_tokens, notices)

    async def infer(self, call: InferCall) -> InferAnswer:
        """Output tensors, recorded. Raises: as `embed`."""

        async def run(models: ModelSet, model: str, call: InferCall) -> Sequence[Tensor]:
            return await models.infer(model, call.inputs, call.outputs)

        def tell(outputs: Sequence[Tensor]) -> Told:
            return Told(bodies.tensors(outputs), said=computed(outputs))

        receipt, outputs, notices = await self._at_once(call, run, tell)
        return InferAnswer(receipt, outputs, notices)

    # --- the path --------------------------------------------------------------------------------

    async def _at_once(
        self,
        call: C,
        run: Callable[[ModelSet, str, C], Awaitable[T]],
        tell: Callable[[T], Told],
    ) -> tuple[Receipt, T, tuple[str, ...]]:
        """The path of an answer that comes in one piece, and its notices."""
        with self._tracer.span("decide") as span, self._releases.lease() as release:
            decision = self._open(release, call, None)
            job = WholeJob(call, run, tell)
            try:
                attempts = await self._begin(decision, job)
                if attempts is not None:
                    with self._tracer.span("infer") as inferring:
                        async with aclosing(attempts.run()) as deltas:
                            async for _ in deltas:
                                raise AssertionError("an answer in one piece has no deltas")
                        spans.measure(inferring, attempts.plan, attempts.winner)
                    await self._conclude(decision, attempts)
                receipt, _ = await self._record(decision)
            except BaseException as error:  # as above
                await decision.entry.ended(error)
                raise
            finally:
                spans.tell(span, decision.call, decision.entry, decision.answer)
        return receipt, job.found, decision.notices

    def _open(self, release: ActiveRelease, call: Call, timeout: float | None) -> Underway:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        return Underway(release, call, self._recorder.open(release, call), deadline)

    async def _begin(self, decision: Underway, job: Job[E]) -> Attempts[E] | None:
        """Everything before a model is asked; None: the answer is in `decision.answer` already."""
        entry = decision.entry
        sensing = self._guards.sense(decision.release, decision.call)
        decision.seen = await self._in_time(decision, sensing)
        plan = entry.plan = self._route(decision)
        job.prepare()
        escalating = await self._in_time(decision, self._look(decision, plan, job))
        self._reserve(decision, plan)
        if not plan.choices and escalating is None and not stands_in(plan, job):
            raise nobody(plan, None)
        decision.intent = entry.intend(job.params(plan.choices[0]) if plan.choices else {})
        if escalating is not None:
            decision.answer = await self._handover.escalate(decision, plan, escalating)
            return None
        decision.answer = await self._in_time(decision, kept_answer(self._cache, decision, plan))
        if decision.answer is not None:
            decision.choice = plan.choices[0]
            return None
        return Attempts(
            plan,
            job,
            decision.release.models,
            decision.intent,
            self._clock,
            decision.deadline,
            entry.asks,
            Examiner(self._guards, decision),
        )

    async def _look(self, decision: Underway, plan: Plan, job: Job[E]) -> Validator | None:
        """Hold the input to its validators, and take out of it what targets must not see.

        Returns the validator that hands the decision to a person; nobody is asked then.
        Raises: InputRefused; Unavailable.
        """
        entry, call, release = decision.entry, decision.call, decision.release
        assert entry.request is not None and entry.verdict is not None, "the policy was asked"
        obliged = entry.verdict.obligations.validators
        failed = await self._guards.admit(release, call, entry.request, obliged, plan, entry.notes)
        if failed is None:
            await self._guards.prepare(release, call, plan)
            return None
        validator = failed.validator
        if validator.otherwise != "escalate" or not job.takes(validator.told):
            raise InputRefused(
                f"what was sent {failed.words}",
                guard=validator.name,
                decision_id=call.decision,
            )
        plan.choices = []
        return validator

    async def _in_time(self, decision: Underway, work: Awaitable[T]) -> T:
        """Raises: DeadlineExceeded when the caller's time runs out first."""
        try:
            async with asyncio.timeout_at(decision.deadline) as scope:
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(
                "the time that the caller gave ran out before the answer"
            ) from None

    async def _conclude(self, decision: Underway, attempts: Attempts[E]) -> None:
        """The attempts' answer, or what stands in for it, into `decision.answer`."""
        plan, winner, escalated = attempts.plan, attempts.winner, attempts.escalated
        if winner is not None:
            decision.choice = winner.choice
            decision.answer = winner.answer
            if plan.fallen(winner.choice.place):
                decision.answer = replace(winner.answer, degraded="fallback")
            if winner.choice.obligations.approvals:
                decision.answer = await self._handover.hold_back(decision, plan, attempts.job)
        elif escalated is not None:
            if not attempts.job.takes(escalated.validator.told):
                raise escalated
            decision.answer = await self._handover.escalate(decision, plan, escalated.validator)
        elif stands_in(plan, attempts.job):
            decision.answer = await self._handover.stand_in(decision, plan)
        else:
            raise nobody(plan, attempts.error)

    def _route(self, decision: Underway) -> Plan:
        """Ask the policy about what was asked for, then who may answer."""
        entry, call, release = decision.entry, decision.call, decision.release
        with self._tracer.span("route"):
            info = release.models.models().get(call.model)
            entry.request = request_of(call, entry.received_ns, decision.seen, info)
            verdict = entry.verdict = release.policy.evaluate(entry.request)
            enforce(verdict, call.decision)
            if isinstance(call, GenerateCall):
                budget(call.max_tokens, verdict.max_tokens)
            now = self._clock.monotonic()
            return self._router.plan(release, call, verdict, entry.received_ns, now, decision.seen)

    def _reserve(self, decision: Underway, plan: Plan) -> None:
        """Hold the worst case of every attempt, each at its own model's price: as many as the
        route allows, and the budget can pay.

        Raises: BudgetExceeded when not even one can be paid.
        """
        refused: BudgetExceeded | None = None
        kept: list[Choice] = []
        priced = decision.release.policy.budget is not None
        for choice in plan.choices:
            if len(kept) == plan.retries.rule.attempts:
                break
            decision.entry.hold(choice)
            if self._budgets is not None and (priced or choice.info.price is not None):
                request = choice.request
                tokens = 0 if request is None else request.sampling.max_tokens
                # What is sent: tokens can be longer than what they stand for.
                sent = decision.call if choice.redacted is None else choice.redacted.call
                worst = worst_case(sent, choice.info, tokens)
                if choice.repairable:
                    worst = twice(worst, choice.info, repair_room(sent))
                try:
                    choice.reservation = self._budgets.reserve(
                        decision.release, decision.call, [choice.info], worst
                    )
                except BudgetExceeded as error:
                    refused = refused or error
                    plan.skip(choice.place, "budget")
                    continue
            kept.append(choice)
        plan.choices = kept
        if refused is not None and not kept:
            raise refused

    async def _record(self, decision: Underway) -> tuple[Receipt, Answer]:
        assert decision.answer is not None, "nobody's answer is an error"
        with self._tracer.span("record"):
            return await decision.entry.answered(decision.answer), decision.answer
