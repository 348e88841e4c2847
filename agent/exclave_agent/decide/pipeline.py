"""The decision path, in order: authorize > budget > route > infer > validate > record > answer.

No path leads around a step. Whatever ends a decision after `Recorder.open`, its RESULT is
written, or the caller is told that it could not be.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TypeAlias, TypeVar

from exclave_agent.ports import (
    AuditLog,
    Clock,
    Delta,
    Embeddings,
    Finished,
    Ids,
    ModelSet,
    Releases,
    Tensor,
)
from exclave_protocol.canonical import JsonValue

from . import bodies
from .authorize import authorize, enforce
from .budget import budget
from .calls import (
    Answered,
    DecisionMetrics,
    EmbedAnswer,
    EmbedCall,
    GenerateCall,
    InferAnswer,
    InferCall,
    Receipt,
)
from .infer import embed, generate, infer
from .overlap import IntentTask
from .record import Recorder, Tokens
from .route import request_for, route
from .validate import Validator

T = TypeVar("T")
_Ran: TypeAlias = tuple[T, JsonValue, Tokens]
"""An answer, how the record has it, and its tokens."""


class Pipeline:
    """Use as `async with Pipeline(...) as pipeline`: leaving waits for records in flight."""

    def __init__(
        self, releases: Releases, log: AuditLog, clock: Clock, ids: Ids, metrics: DecisionMetrics
    ) -> None:
        self._releases = releases
        self._ids = ids
        self._recorder = Recorder(log, clock, metrics)

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

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Delta | Answered, None]:
        """Answer in pieces; the last event is `Answered`. Close it to stop the model.

        No `Delta` comes before the INTENT is durable, and no `Answered` before the RESULT. With
        `stream` off, or a schema to hold the answer to, the text comes in one piece, after both.

        Raises: NoRelease, PolicyDenied, TooManyTokens, UnknownModel, BadRequest, OutputInvalid,
        Overloaded, WorkerCrashed, StorageError.
        """
        with self._releases.lease() as release:
            entry = self._recorder.open(release, call)
            try:
                verdict = authorize(release.policy, call, entry.received_ns)
                entry.rule = verdict.rule
                enforce(verdict, call.decision)
                granted = budget(call.max_tokens, verdict.max_tokens)
                info = route(release, call)
                request = request_for(call, info, granted, verdict.max_tokens)
                schema = call.response_schema
                validator = None if schema is None else Validator(schema)
                held = validator is not None or not call.stream
                intent = entry.intend(info, bodies.generate_params(request, call))
                async with aclosing(generate(release.models, request, intent)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            finished = event
                            break
                        entry.wrote(event.text)
                        if not held:
                            yield event
                text = entry.text
                if validator is not None:
                    validator.check(text, call.decision)
                receipt = await entry.answered(
                    finished.reason, text, (finished.prompt_tokens, finished.completion_tokens)
                )
            except BaseException as error:  # cancellation too: every end has its record
                await entry.ended(error)
                raise
        if held and text:
            yield Delta(text)
        yield Answered(
            receipt,
            finished.reason,
            finished.prompt_tokens,
            finished.completion_tokens,
            info.sha256,
        )

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Vectors, recorded. Raises: as `stream`, without OutputInvalid."""

        async def run(models: ModelSet, intent: IntentTask) -> _Ran[Embeddings]:
            found = await embed(models, call, intent)
            return found, bodies.vectors(found.vectors), (found.prompt_tokens, 0)

        receipt, found = await self._at_once(call, run)
        return EmbedAnswer(receipt, found.vectors, found.prompt_tokens)

    async def infer(self, call: InferCall) -> InferAnswer:
        """Output tensors, recorded. Raises: as `embed`."""

        async def run(models: ModelSet, intent: IntentTask) -> _Ran[Sequence[Tensor]]:
            outputs = await infer(models, call, intent)
            return outputs, bodies.tensors(outputs), (0, 0)

        receipt, outputs = await self._at_once(call, run)
        return InferAnswer(receipt, outputs)

    async def _at_once(
        self,
        call: EmbedCall | InferCall,
        run: Callable[[ModelSet, IntentTask], Awaitable[_Ran[T]]],
    ) -> tuple[Receipt, T]:
        """The path of an answer that comes in one piece, which nothing has to validate."""
        with self._releases.lease() as release:
            entry = self._recorder.open(release, call)
            try:
                verdict = authorize(release.policy, call, entry.received_ns)
                entry.rule = verdict.rule
                enforce(verdict, call.decision)
                info = route(release, call)
                intent = entry.intend(info, bodies.size_params(call))
                answer, output, tokens = await run(release.models, intent)
                receipt = await entry.answered("stop", output, tokens)
            except BaseException as error:  # as above
                await entry.ended(error)
                raise
        return receipt, answer
