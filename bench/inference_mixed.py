"""Two figures under load: how long somebody waits beside a batch load, and the scheduler's cost."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass

from inference_load import Ask, Ways, quantile, take_turn, unrelated

from exclave_agent.ports import RuntimeStats
from exclave_agent.runtimes.supervisor import Supervisor

BATCH_TOKENS = 256
"""Of one answer of the batch load."""
INTERACTIVE_TOKENS = 8
PAUSE = 0.2
"""Seconds between an interactive answer and the next question: people think."""


@dataclass(frozen=True)
class Mixed:
    """Seconds, of one server."""

    idle: list[float]
    """To the first token, with nobody else there."""
    loaded: list[float]
    """To the first token, beside the batch load."""
    step: float
    """One decode step of the batch load: the median time between two of its tokens."""

    @property
    def ratio(self) -> float:
        """p95 under load, less one decode step, over p95 idle."""
        return (quantile(self.loaded, 0.95) - self.step) / quantile(self.idle, 0.95)

    def row(self, server: str) -> dict[str, object]:
        """For the results."""
        return {
            "mixed load": server,
            "questions": len(self.loaded),
            "idle first token p50 ms": 1000 * quantile(self.idle, 0.5),
            "idle p95 ms": 1000 * quantile(self.idle, 0.95),
            "beside batch p50 ms": 1000 * quantile(self.loaded, 0.5),
            "beside batch p95 ms": 1000 * quantile(self.loaded, 0.95),
            "decode step ms": 1000 * self.step,
            "(p95 - step) / idle p95": self.ratio,
        }


async def mixed_load(
    ask: Ask, *, batch_clients: int, questions: int, offset: int, most_seconds: float
) -> Mixed:
    """Questions of one caller, one at a time: first alone, then beside others' batch load. After
    `most_seconds` of either no more are asked.

    Raises: TimeoutError when the load did not get under way within `most_seconds`.
    """
    ways = Ways(INTERACTIVE_TOKENS, caller="other")
    # What it computes for the first time only (a template, a page of memory) is not its idle value.
    await take_turn(ask, unrelated, 1, 2, offset, ways)
    idle = await _questions(ask, questions, offset + 10, ways, most_seconds)
    gaps: list[float] = []
    running: set[int] = set()

    async def batch(number: int) -> None:
        at = offset + 1000 * (number + 1)
        while True:
            at += 1
            last = 0.0
            async for _ in ask(unrelated(at), Ways(BATCH_TOKENS, batch=True)):
                now = time.perf_counter()
                if last and len(running) == batch_clients:
                    gaps.append(now - last)
                last = now
                running.add(number)

    async with _together(batch(number) for number in range(batch_clients)):
        async with asyncio.timeout(most_seconds):
            while len(running) < batch_clients:
                await asyncio.sleep(0.05)
        loaded = await _questions(ask, questions, offset + 500, ways, most_seconds)
    return Mixed(idle, loaded, statistics.median(gaps) if gaps else 0.0)


async def _questions(
    ask: Ask, count: int, offset: int, ways: Ways, most_seconds: float
) -> list[float]:
    first: list[float] = []
    ends = time.perf_counter() + most_seconds
    for number in range(count):
        if first and time.perf_counter() > ends:
            break
        turn = await take_turn(ask, unrelated, 1, 1, offset + number, ways)
        first += turn.first
        await asyncio.sleep(PAUSE)
    return first


@contextlib.asynccontextmanager
async def _together(work: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run them beside the body, and end them with it; a failure of theirs is the body's."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@dataclass(frozen=True)
class Share:
    """Of the wall time of a scheduler that always had work."""

    engine: float
    """Inside the engine."""
    occupancy: float
    """Sequences of a step, on the average."""
    step: float
    """Seconds of one step."""
    seconds: float

    def row(self) -> dict[str, object]:
        """For the results."""
        return {
            "scheduler": "exclave",
            "engine share of wall time": self.engine,
            "sequences a step": self.occupancy,
            "step ms": 1000 * self.step,
            "seconds": self.seconds,
        }


async def engine_share(
    supervisor: Supervisor, model: str, ask: Ask, *, sequences: int, seconds: float
) -> Share:
    """Callers in closed loops with answers of different lengths, so that there is always work,
    while the worker's own counters are read as often as it is pinged.

    Raises: RuntimeError when it was pinged less than three times under full load.
    """
    seen: list[tuple[float, RuntimeStats]] = []
    full = asyncio.Event()
    running: set[int] = set()

    async def call(number: int) -> None:
        at = 50_000 + 1000 * number
        while True:
            at += 1
            async for _ in ask(unrelated(at), Ways(96 + 13 * number)):
                running.add(number)
                if len(running) == sequences:
                    full.set()

    async with _together(call(number) for number in range(sequences)):
        await full.wait()
        ends = time.perf_counter() + seconds
        while (now := time.perf_counter()) < ends:
            (stats,) = [one.stats for one in supervisor.plan().models if one.name == model]
            if not seen or stats.busy_us != seen[-1][1].busy_us:
                seen.append((now, stats))
            await asyncio.sleep(0.002)
    # What was there before the load is not of it.
    seen = seen[1:]
    if len(seen) < 3:
        raise RuntimeError(f"{len(seen)} readings of the worker's counters in {seconds} s")
    (began, first), (ended, last) = seen[0], seen[-1]
    wall = ended - began
    steps = last.steps - first.steps
    # The slope of all readings: each is off by the step that was under way, which is not counted.
    line = statistics.linear_regression(
        [at for at, _ in seen], [stats.busy_us / 1e6 for _, stats in seen]
    )
    return Share(
        engine=line.slope,
        occupancy=(last.batch_sequences - first.batch_sequences) / steps,
        step=wall / steps,
        seconds=wall,
    )
