"""The decision path, in order: authorize > route > budget > cache > infer > validate > record.

No path leads around a step. Whatever ends a decision after `Recorder.open`, its RESULT is
written, or the caller is told that it could not be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

from exclave_agent.errors import BudgetExceeded, DeadlineExceeded
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
    Referrals,
    Releases,
    Scores,
    Tensor,
    Tracer,
)
from exclave_protocol.canonical import JsonValue

from . import bodies, spans
from .attempts import Attempts
from .authorize import enforce, request_of
from .budget import Budgets, budget
from .cache import Cache, CachedAnswer, Completion
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
from .degrade import nobody, stand_in, stands_in
from .jobs import Answer, GenerateJob, Job, WholeJob
from .overlap import IntentTask
from .record import Entry, Recorder
from .route import Choice, Plan, Router
from .worst import worst_case

E = TypeVar("E")
T = TypeVar("T")


@dataclass(slots=True)
class _Decision:
    """One decision on its way."""

    release: ActiveRelease
    call: Call
    entry: Entry
    deadline: float | None
    """The loop's time."""
    intent: IntentTask | None = None
    """Once it is being written."""
    answer: Answer | None = None
    """Once it is complete."""
    choice: Choice | None = None
    """Who gave it."""


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
    ) -> None:
        """`budgets`, `cache`: loaded. `referrals` None: routes cannot hand over to a person."""
        self._releases = releases
        self._clock = clock
        self._ids = ids
        self._recorder = Recorder(log, clock, metrics)
        self._router = Router()
        self._budgets = budgets
        self._cache = cache
        self._referrals = referrals
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
        await self._recorder.__aexit__(kind, error, trace)

    def new_id(self) -> str:
        """A fresh decision id, 32 hex digits."""
        return self._ids.new()

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
            self._keep(decision, call)
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
        )

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Vectors, recorded. Raises: as `stream`, without OutputInvalid."""

        async def run(models: ModelSet, model: str) -> Embeddings:
            return await models.embed(model, call.texts)

        def tell(found: Embeddings) -> tuple[JsonValue, int]:
            return bodies.vectors(found.vectors), found.prompt_tokens

        receipt, found = await self._at_once(call, run, tell)
        return EmbedAnswer(receipt, found.vectors, found.prompt_tokens)

    async def rerank(self, call: RerankCall) -> RerankAnswer:
        """Scores, recorded. Raises: as `embed`."""

        async def run(models: ModelSet, model: str) -> Scores:
            return await models.rerank(model, call.query, call.documents)

        def tell(found: Scores) -> tuple[JsonValue, int]:
            return [bodies.decimal(score) for score in found.scores], found.prompt_tokens

        receipt, found = await self._at_once(call, run, tell)
        return RerankAnswer(receipt, found.scores, found.prompt_tokens)

    async def infer(self, call: InferCall) -> InferAnswer:
        """Output tensors, recorded. Raises: as `embed`."""

        async def run(models: ModelSet, model: str) -> Sequence[Tensor]:
            return await models.infer(model, call.inputs, call.outputs)

        def tell(outputs: Sequence[Tensor]) -> tuple[JsonValue, int]:
            return bodies.tensors(outputs), 0

        receipt, outputs = await self._at_once(call, run, tell)
        return InferAnswer(receipt, outputs)

    # --- the path --------------------------------------------------------------------------------

    async def _at_once(
        self,
        call: Call,
        run: Callable[[ModelSet, str], Awaitable[T]],
        tell: Callable[[T], tuple[JsonValue, int]],
    ) -> tuple[Receipt, T]:
        """The path of an answer that comes in one piece, which nothing has to validate."""
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
        return receipt, job.found

    def _open(self, release: ActiveRelease, call: Call, timeout: float | None) -> _Decision:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        return _Decision(release, call, self._recorder.open(release, call), deadline)

    async def _begin(self, decision: _Decision, job: Job[E]) -> Attempts[E] | None:
        """Everything before a model is asked; None: the answer is in `decision.answer` already."""
        entry = decision.entry
        plan = entry.plan = self._route(decision)
        job.prepare()
        self._reserve(decision, plan)
        if not plan.choices and not stands_in(plan, job):
            raise nobody(plan, None)
        decision.intent = entry.intend(job.params(plan.choices[0]) if plan.choices else {})
        cached = await self._lookup(decision, plan)
        if cached is not None:
            decision.choice = plan.choices[0]
            decision.answer = _again(cached, plan.choices[0])
            return None
        return Attempts(
            plan,
            job,
            decision.release.models,
            decision.intent,
            self._clock,
            decision.deadline,
            entry.asks,
        )

    async def _conclude(self, decision: _Decision, attempts: Attempts[E]) -> None:
        """The attempts' answer, or what stands in for it, into `decision.answer`."""
        plan, winner, intent = attempts.plan, attempts.winner, decision.intent
        assert intent is not None, "nobody is asked without one"
        if winner is not None:
            decision.choice = winner.choice
            decision.answer = winner.answer
            if plan.fallen(winner.choice.place):
                decision.answer = replace(winner.answer, degraded="fallback")
        elif stands_in(plan, attempts.job):
            decision.answer = await stand_in(
                plan, decision.call, intent, self._referrals, self._clock
            )
        else:
            raise nobody(plan, attempts.error)

    def _route(self, decision: _Decision) -> Plan:
        """Ask the policy about what was asked for, then who may answer."""
        entry, call, release = decision.entry, decision.call, decision.release
        with self._tracer.span("route"):
            info = release.models.models().get(call.model)
            entry.request = request_of(call, entry.received_ns, info=info)
            verdict = entry.verdict = release.policy.evaluate(entry.request)
            enforce(verdict, call.decision)
            if isinstance(call, GenerateCall):
                budget(call.max_tokens, verdict.max_tokens)
            now = self._clock.monotonic()
            return self._router.plan(release, call, verdict, entry.received_ns, now)

    def _reserve(self, decision: _Decision, plan: Plan) -> None:
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
                worst = worst_case(decision.call, choice.info, tokens)
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

    async def _lookup(self, decision: _Decision, plan: Plan) -> CachedAnswer | None:
        """The first choice's kept answer to this request."""
        call = decision.call
        if self._cache is None or decision.release.policy.cache is None:
            return None
        if not plan.choices or not isinstance(call, GenerateCall):
            return None
        first = plan.choices[0]
        assert first.request is not None
        try:
            async with asyncio.timeout_at(decision.deadline) as scope:
                return await self._cache.lookup(decision.release, call, first.request, first.info)
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(
                "the time that the caller gave ran out before the answer"
            ) from None

    async def _record(self, decision: _Decision) -> tuple[Receipt, Answer]:
        assert decision.answer is not None, "nobody's answer is an error"
        with self._tracer.span("record"):
            return await decision.entry.answered(decision.answer), decision.answer

    def _keep(self, decision: _Decision, call: GenerateCall) -> None:
        """Keep the answer for the next one who asks the same; nobody waits for that."""
        answer, choice = decision.answer, decision.choice
        if self._cache is None or decision.release.policy.cache is None:
            return
        if answer is None or choice is None:
            return
        if answer.cache or answer.degraded:
            return
        assert choice.request is not None
        completion = Completion(
            answer.text,
            answer.finish,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.tool_calls,
        )
        self._recorder.spawn(
            self._cache.keep(decision.release, call, choice.request, choice.info, completion)
        )


def _again(cached: CachedAnswer, choice: Choice) -> Answer:
    """A kept answer, given once more: no token was computed for it."""
    kept = cached.completion
    made = kept.tool_calls
    return Answer(
        finish=kept.finish,
        output=bodies.spoken(kept.text, made) if made else kept.text,
        info=choice.info,
        prompt_tokens=kept.prompt_tokens,
        completion_tokens=kept.completion_tokens,
        text=kept.text,
        tool_calls=made,
        cache=cached.cache,
        similarity=cached.similarity,
    )
