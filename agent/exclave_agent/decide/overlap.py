"""Overlap: let a model start while the intent to use it is still being made durable."""

from __future__ import annotations

import asyncio
from types import TracebackType

from exclave_agent.errors import StorageError
from exclave_agent.ports import Appended

IntentTask = asyncio.Task[Appended | StorageError]
"""An append in flight; it ends with its error as a value, so that no task group falls over it."""


class Overlap:
    """`async with Overlap(task): ...` runs the block beside the append.

    The block MUST NOT let anything out of the process: the intent is durable only when the
    `async with` has ended without an error. When the append fails the block is cancelled at
    once (a long prefill does not run on for a refused decision), and the append's StorageError
    is raised in its place. Cancelling from outside stays a CancelledError.
    """

    __slots__ = ("_intent", "_interrupted", "_others", "_waiter")

    def __init__(self, intent: IntentTask) -> None:
        self._intent = intent
        self._waiter: asyncio.Task[object] | None = None
        self._interrupted: StorageError | None = None
        self._others = 0

    async def __aenter__(self) -> None:
        self._waiter = asyncio.current_task()
        assert self._waiter is not None
        self._others = self._waiter.cancelling()
        self._intent.add_done_callback(self._landed)

    def _landed(self, intent: IntentTask) -> None:
        """Runs from the loop, so the waiter is suspended inside the block, or has left it."""
        if self._waiter is None or intent.cancelled():
            return
        outcome = intent.result()
        if isinstance(outcome, StorageError):
            self._interrupted = outcome
            self._waiter.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        self._intent.remove_done_callback(self._landed)
        if self._interrupted is not None:
            if waiter.uncancel() <= self._others:
                raise self._interrupted
            return  # somebody else cancelled as well: theirs goes on
        if kind is None:
            outcome = await asyncio.shield(self._intent)
            if isinstance(outcome, StorageError):
                raise outcome
