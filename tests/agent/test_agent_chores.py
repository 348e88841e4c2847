"""Chores run at their pace; a full disk is survived, anything unknown ends the agent."""

from __future__ import annotations

import asyncio

import pytest

from exclave_agent.chores import Chores
from exclave_agent.errors import StorageFull


async def test_a_job_runs_again_and_again_and_survives_a_full_disk() -> None:
    chores, done = Chores(), asyncio.Event()
    calls = 0

    async def job() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageFull("no space")
        done.set()

    chores.every(0.01, "job", job)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(chores.run())
        async with asyncio.timeout(10):
            await done.wait()
        running.cancel()
    assert calls >= 2


async def test_an_unknown_failure_ends_the_run_with_its_reason() -> None:
    chores = Chores()

    async def job() -> None:
        raise ZeroDivisionError("broken chore")

    chores.every(0.01, "job", job)
    with pytest.raises(ZeroDivisionError, match="broken chore"):
        async with asyncio.timeout(10):
            await chores.run()
