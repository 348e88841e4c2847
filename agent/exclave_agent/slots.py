"""Level-triggered hand-over between tasks: the newest value counts, older ones may be skipped."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from exclave_agent.ports import Clock

T = TypeVar("T")


class Latest(Generic[T]):
    """One slot for one kind of value. A slow reader sees the newest value, never a queue.

    Several readers may wait at once, each remembering the version that it last saw.
    Not thread-safe: use it from one event loop.
    """

    def __init__(self) -> None:
        self._value: T | None = None
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        """The newest value, or None when there was none yet."""
        return self._value

    @property
    def version(self) -> int:
        """How many values there have been; 0: none yet."""
        return self._version

    def put(self, value: T) -> None:
        """Replace the value and wake every reader."""
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, version: int) -> tuple[int, T]:
        """Wait for a value beyond `version`; returns it with its own version."""
        while self._version <= version or self._value is None:
            await self._changed.wait()
        return self._version, self._value


async def pause(clock: Clock, seconds: float, wake: asyncio.Event) -> bool:
    """Sleep, but end early when `wake` is set; clears it. True: it was woken early."""
    slept = False

    async def alarm() -> None:
        nonlocal slept
        await clock.sleep(seconds)
        slept = not wake.is_set()
        wake.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(alarm())
        await wake.wait()
        task.cancel()
    wake.clear()
    return not slept


class Backoff:
    """Exponential delays with full jitter (the caller draws from [0, ceiling))."""

    def __init__(self, lowest: float = 1.0, highest: float = 300.0) -> None:
        self._lowest = lowest
        self._highest = highest
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the last reset."""
        return self._failures

    def ceiling(self) -> float:
        """Upper bound of the next delay, seconds; doubles with every call."""
        ceiling = min(self._highest, self._lowest * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return ceiling

    def reset(self) -> None:
        """Begin again at the lowest delay."""
        self._failures = 0
