"""Infer: run a model, and let nothing out before the intent is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar, cast

from exclave_agent.errors import StorageError
from exclave_agent.ports import Delta, Finished, Generate, ModelInfo, ModelSet

from .overlap import IntentTask, Overlap

T = TypeVar("T")


def generate(models: ModelSet, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
    """The model's events, of which `begun` takes the first; closing it frees the model's slot."""
    # The port promises an iterator that can be closed; only generators have a type for it.
    events: AsyncIterator[Delta | Finished] = models.generate(request)
    return cast("AsyncGenerator[Delta | Finished, None]", events)


async def whole(run: Callable[[], Awaitable[T]]) -> AsyncGenerator[T, None]:
    """An answer that comes in one piece: one event."""
    yield await run()


async def begun(events: AsyncGenerator[T, None], info: ModelInfo, intent: IntentTask) -> T:
    """The first of a model's events, not before `intent` is durable.

    A remote model is not even asked before: what was asked has left the machine.
    Raises: StorageError of the intent, StopAsyncIteration, and what the model raises.
    """
    if info.remote:
        await durable(intent)
    async with Overlap(intent):
        return await anext(events)


async def durable(intent: IntentTask) -> None:
    """Return once the intent is on disk. Raises: StorageError of the intent."""
    outcome = await asyncio.shield(intent)
    if isinstance(outcome, StorageError):
        raise outcome
