"""Looks after a worker: how did its load go, does it still get anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exclave_agent.ports import Clock
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.process import Worker
from exclave_agent.runtimes.restart import Timings
from exclave_agent.runtimes.waiting import first_of


async def load_outcome(
    worker: Worker, seconds: float, stopping: asyncio.Event
) -> frames.Loaded | str:
    """What the worker says of itself, or why the load failed."""
    try:
        async with asyncio.timeout(seconds):
            await first_of(worker.gone.wait(), stopping.wait(), _settled(worker.loaded))
    except TimeoutError:
        return f"not loaded within {seconds:g} s"
    if worker.loaded.done():
        return worker.loaded.result()
    ended = await worker.reap()
    return worker.load_failure(ended)


async def _settled(future: asyncio.Future[frames.Loaded]) -> None:
    """Wait for a future without cancelling it when the wait is cancelled."""
    await asyncio.shield(future)


async def hung(worker: Worker, clock: Clock, timings: Timings, look: Callable[[], None]) -> None:
    """Returns when the worker is busy, or silent, for too long, or gone. `look` is called at each
    ping."""
    nonce = 0
    moved = clock.monotonic()
    last = worker.pong
    while True:
        nonce += 1
        if worker.gone.is_set():
            return
        worker.send(frames.Ping(nonce))
        await clock.sleep(timings.ping)
        pong = worker.pong
        answered = pong.nonce == nonce
        if answered and (pong.active == 0 or pong.steps != last.steps):
            moved = clock.monotonic()
        last = pong
        if clock.monotonic() - moved >= timings.hung:
            return
        look()
