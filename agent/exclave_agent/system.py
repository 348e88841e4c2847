"""The operating system's clock, randomness and names behind the ports, and a guard on the clock."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import time
from dataclasses import dataclass

from .ports import Clock, StateStore

CLOCK_FLOOR_KEY = "clock.floor"
STEP_BACK_TOLERANCE = 5.0
"""Seconds. NTP slews less; more than this is somebody's hand or a dead battery."""


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def settle_memory() -> None:
    """Tell the garbage collector that what exists now stays: code, schemas, rooms.

    Without it every full collection walks a hundred thousand objects that never die, and the
    request in whose turn it falls waits some milliseconds for nothing.
    """
    gc.collect()
    gc.freeze()


class SystemRng:
    """Strong randomness; `uniform` only spreads load and needs no strength.

    OpenSSL's generator, seeded by the kernel, safe across threads and forks. Every record
    draws several salts: os.urandom would give up the interpreter's lock for each of them,
    which cost more than all the rest of a record together.
    """

    def token(self, size: int) -> bytes:
        return ssl.RAND_bytes(size)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - jitter


class SystemIds:
    """Ids that sort by the time of their making (RFC 9562 UUIDv7 layout, as bare hex).

    Rows keyed by them are added at the end of an index, so a commit touches few pages.
    """

    def new(self) -> str:
        milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
        noise = int.from_bytes(ssl.RAND_bytes(10), "big")
        value = (
            milliseconds << 80
            | 0x7 << 76
            | (noise >> 68) << 64
            | 0b10 << 62
            | noise & (1 << 62) - 1
        )
        return f"{value:032x}"


@dataclass(frozen=True, slots=True)
class StepBack:
    """The wall clock fell behind a moment this agent has already seen."""

    floor_ns: int
    """The latest wall time seen."""
    now_ns: int
    """What the clock says now."""

    @property
    def seconds(self) -> float:
        """How far back."""
        return (self.floor_ns - self.now_ns) / 1e9


class TrustedTime:
    """Wall time that never goes back, so that nothing expired becomes valid again.

    A `Clock` itself: give it to whatever judges expiry. After a step back it runs on from
    the latest moment seen, at the monotonic clock's pace, until the wall clock catches up.
    The floor MUST be durable (`persist`) before anything relies on it across a restart.
    """

    def __init__(self, clock: Clock, state: StateStore) -> None:
        self._clock = clock
        self._state = state
        self._floor_ns = 0
        self._floor_at = clock.monotonic()

    async def load(self) -> StepBack | None:
        """Take up the stored floor; says whether the clock stepped back while we were away.

        Raises: StorageError.
        """
        stored = await self._state.get(CLOCK_FLOOR_KEY)
        if stored is not None:
            self._raise_floor(int(stored))
        return self.check()

    def now_ns(self) -> int:
        """The wall clock, or the floor where the clock is behind it."""
        now = self._clock.now_ns()
        floor = self._floor_now()
        if now < floor:
            return floor
        self._raise_floor(now)
        return now

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def check(self) -> StepBack | None:
        """A step back of more than five seconds, if the clock has made one."""
        now, floor = self._clock.now_ns(), self._floor_now()
        if floor - now > STEP_BACK_TOLERANCE * 1e9:
            return StepBack(floor, now)
        return None

    async def persist(self) -> None:
        """Make the floor durable. Raises: StorageFull, StorageError."""
        await self._state.put(CLOCK_FLOOR_KEY, str(self.now_ns()).encode())

    def _floor_now(self) -> int:
        elapsed = self._clock.monotonic() - self._floor_at
        return self._floor_ns + round(elapsed * 1e9) if self._floor_ns else 0

    def _raise_floor(self, floor_ns: int) -> None:
        self._floor_ns = floor_ns
        self._floor_at = self._clock.monotonic()
