"""Turns at a worker: many requests together, or one alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

_Waiter = asyncio.Future[None]


class Turns:
    """A shared/exclusive lock in which whoever waits to be alone goes before all newcomers."""

    def __init__(self) -> None:
        self._together = 0
        self._alone = False
        self._want_alone: deque[_Waiter] = deque()
        self._want_together: deque[_Waiter] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        """Hold a turn; while nobody is or wants to be alone, nothing is waited for."""
        if alone:
            if self._alone or self._together or self._want_alone:
                await self._wait(self._want_alone, alone)
            else:
                self._alone = True
        elif self._alone or self._want_alone:
            await self._wait(self._want_together, alone)
        else:
            self._together += 1
        try:
            yield
        finally:
            self._leave(alone)

    def at_once(self) -> bool:
        """Take a turn beside others if that is to be had without waiting; `leave` gives it back."""
        if self._alone or self._want_alone:
            return False
        self._together += 1
        return True

    def leave(self) -> None:
        """Give back what `at_once` took."""
        self._leave(alone=False)

    async def _wait(self, queue: deque[_Waiter], alone: bool) -> None:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave(alone)
            else:
                # `_next` may have passed it over already.
                with contextlib.suppress(ValueError):
                    queue.remove(waiter)
                self._next()
            raise

    def _leave(self, alone: bool) -> None:
        if alone:
            self._alone = False
        else:
            self._together -= 1
        self._next()

    def _next(self) -> None:
        """Hand the turn to whoever is next; it is theirs from here on."""
        if self._alone:
            return
        # One that was cancelled is still queued until its task runs.
        while self._want_alone and self._want_alone[0].done():
            self._want_alone.popleft()
        if self._want_alone:
            if not self._together:
                self._alone = True
                self._want_alone.popleft().set_result(None)
            return
        while self._want_together:
            waiter = self._want_together.popleft()
            if not waiter.done():
                self._together += 1
                waiter.set_result(None)
