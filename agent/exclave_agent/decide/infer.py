"""Infer: run the model, and let nothing out before the intent is durable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TypeVar, cast

from exclave_agent.errors import WorkerCrashed
from exclave_agent.ports import Delta, Embeddings, Finished, Generate, ModelSet, Tensor

from .calls import EmbedCall, InferCall
from .overlap import IntentTask, Overlap

T = TypeVar("T")


async def generate(
    models: ModelSet, request: Generate, intent: IntentTask
) -> AsyncGenerator[Delta | Finished, None]:
    """The model's events, the first of them not before `intent` is durable; the last one is
    `Finished`. Closing it frees the model's slot.

    Raises: StorageError of the intent, and what `ModelSet.generate` raises.
    """
    async with aclosing(_closable(models.generate(request))) as events:
        async with Overlap(intent):
            event = await anext(events, None)
        while event is not None:
            yield event
            if isinstance(event, Finished):
                return
            event = await anext(events, None)
    raise WorkerCrashed("the model's answer ended without its end: try again")


async def infer(models: ModelSet, call: InferCall, intent: IntentTask) -> Sequence[Tensor]:
    """The model's outputs, not before `intent` is durable. Raises: as `generate`."""
    async with Overlap(intent):
        return await models.infer(call.model, call.inputs, call.outputs)


async def embed(models: ModelSet, call: EmbedCall, intent: IntentTask) -> Embeddings:
    """The texts' vectors, not before `intent` is durable. Raises: as `generate`."""
    async with Overlap(intent):
        return await models.embed(call.model, call.texts)


def _closable(events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The port promises an iterator that can be closed; only generators have a type for it."""
    return cast("AsyncGenerator[T, None]", events)
