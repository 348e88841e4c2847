"""The write-ahead log is moved into the database beside the writer, and cannot grow for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exclave_agent.storage import home as home_module
from exclave_agent.storage import wal
from exclave_testing.homes import Home, intent, state


async def until_grown(path: Path, size: int) -> None:
    async with asyncio.timeout(10):
        while path.stat().st_size <= size:
            await asyncio.sleep(0.001)


async def test_records_reach_the_database_without_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "PAGES", 50)
    async with Home(tmp_path) as home:
        before = state(tmp_path).stat().st_size
        await asyncio.gather(*(home.log.append(intent(f"d{n}", "x" * 3000)) for n in range(60)))
        await until_grown(state(tmp_path), before)


async def test_the_writer_itself_bounds_the_log_when_the_thread_cannot_keep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "PAGES", 1 << 60)  # the thread is never woken
    monkeypatch.setattr(home_module, "PAGES_MOST", 40)
    async with Home(tmp_path) as home:
        for number in range(40):
            await home.log.append(intent(f"d{number}", "x" * 20_000))
        written = 40 * 20_000 * 4 // 3
        assert state(tmp_path).with_name("state.db-wal").stat().st_size < written / 2
