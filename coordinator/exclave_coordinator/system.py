"""The real clock, randomness and identifiers."""

from __future__ import annotations

import asyncio
import random
import secrets
import time


class SystemClock:
    """The operating system's clocks."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the Unix epoch."""
        return time.time_ns()

    def now(self) -> int:
        """Wall clock, whole seconds since the Unix epoch."""
        return int(time.time())

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        await asyncio.sleep(seconds)


class SystemRng:
    """The operating system's generator."""

    def __init__(self) -> None:
        self._jitter = random.SystemRandom()

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        return secrets.token_bytes(size)

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return self._jitter.uniform(low, high)


class SystemIds:
    """128 random bits as hex."""

    def new(self) -> str:
        """32 lower-case hex digits."""
        return secrets.token_hex(16)
