"""Latest-only slots, interruptible pauses and the backoff."""

from __future__ import annotations

import asyncio

import pytest

from exclave_agent.slots import Backoff, Latest, pause
from exclave_testing.clock import FakeClock


async def test_a_slow_reader_sees_only_the_newest() -> None:
    slot = Latest[int]()
    assert (slot.value, slot.version) == (None, 0)
    for number in range(5):
        slot.put(number)
    assert await slot.newer(0) == (5, 4)


async def test_every_reader_is_woken() -> None:
    slot = Latest[str]()
    readers = [asyncio.create_task(slot.newer(0)) for _ in range(3)]
    await asyncio.sleep(0)
    slot.put("x")
    assert await asyncio.gather(*readers) == [(1, "x")] * 3


async def test_pause_lasts_its_time() -> None:
    clock, wake = FakeClock(), asyncio.Event()
    task = asyncio.create_task(pause(clock, 10, wake))
    await clock.until_sleepers(1)
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(0.1)
    assert await task is False
    assert not wake.is_set()


async def test_pause_ends_early_when_woken_and_leaves_no_sleeper() -> None:
    clock, wake = FakeClock(), asyncio.Event()
    task = asyncio.create_task(pause(clock, 10, wake))
    await clock.until_sleepers(1)
    wake.set()
    assert await task is True
    assert clock.sleepers == 0
    assert not wake.is_set()


async def test_a_wake_before_the_pause_is_not_lost() -> None:
    wake = asyncio.Event()
    wake.set()
    async with asyncio.timeout(5):
        assert await pause(FakeClock(), 1000, wake) is True


async def test_cancelled_pause() -> None:
    clock, wake = FakeClock(), asyncio.Event()
    task = asyncio.create_task(pause(clock, 10, wake))
    await clock.until_sleepers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0


def test_backoff_doubles_to_its_ceiling_and_begins_anew() -> None:
    backoff = Backoff(1, 10)
    assert [backoff.ceiling() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.ceiling() == 1
    for _ in range(5000):
        backoff.ceiling()
    assert backoff.ceiling() == 10
