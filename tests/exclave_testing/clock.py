"""Time, chance and names that a test controls: nothing here looks at the real world."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools

START_NS = 1_900_000_000_000_000_000
"""Where fake wall clocks start: 2030-03-17T17:46:40Z."""


class FakeClock:
    """Virtual time. It stands still until `advance` (or `step`) moves it."""

    def __init__(self, start_ns: int = START_NS) -> None:
        self._wall_ns = start_ns
        self._monotonic_ns = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def now_ns(self) -> int:
        return self._wall_ns

    def monotonic(self) -> float:
        return self._monotonic_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._monotonic_ns + round(seconds * 1e9)
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        self._changed.set()
        await future

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep now."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    async def until_sleepers(self, count: int, *, deadline: float = 10.0) -> None:
        """Wait (real time, at most `deadline` seconds) until `count` tasks sleep."""
        async with asyncio.timeout(deadline):
            while self.sleepers < count:
                self._changed.clear()
                await self._changed.wait()

    async def advance(self, seconds: float) -> None:
        """Move both clocks forward, waking each sleeper at its own moment, in order."""
        target = self._monotonic_ns + round(seconds * 1e9)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._wall_ns += due - self._monotonic_ns
            self._monotonic_ns = due
            if not future.done():
                future.set_result(None)
                await _settle()
        self._wall_ns += target - self._monotonic_ns
        self._monotonic_ns = target
        await _settle()

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP would."""
        self._wall_ns += round(seconds * 1e9)


async def _settle() -> None:
    """Let every task that is ready run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


class SeededRng:
    """The same bytes for the same seed, by SHA-256 in counter mode."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._counter = itertools.count()

    def token(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            block = f"{self._seed}:{next(self._counter)}".encode()
            out += hashlib.sha256(block).digest()
        return out[:size]

    def uniform(self, low: float, high: float) -> float:
        fraction = int.from_bytes(self.token(6), "big") / 2**48
        return low + (high - low) * fraction


class SequentialIds:
    """00..01, 00..02, ... as 32 hex digits."""

    def __init__(self, start: int = 1) -> None:
        self._next = itertools.count(start)

    def new(self) -> str:
        return f"{next(self._next):032x}"
