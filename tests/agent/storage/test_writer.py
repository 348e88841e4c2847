"""The one writer: isolation of commands, whole batches or none, order, limits, shutdown."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from exclave_agent.errors import StorageError, StorageFull
from exclave_agent.storage import sqlite as writer_module
from exclave_agent.storage.connect import open_writer
from exclave_agent.storage.sqlite import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)")
    connection.close()
    return path


@pytest.fixture
async def connection(path: Path) -> AsyncIterator[sqlite3.Connection]:
    connection = open_writer(path)
    yield connection
    connection.close()


@pytest.fixture
async def writer(connection: sqlite3.Connection) -> AsyncIterator[Writer]:
    writer = Writer(connection)
    yield writer
    await writer.close()


class Gate:
    """Holds the writer's thread inside a command, so that others queue up behind it."""

    def __init__(self, writer: Writer) -> None:
        self._entered = threading.Event()
        self._leave = threading.Event()
        self._task = asyncio.ensure_future(writer.run(self._hold))

    def _hold(self, _: sqlite3.Connection) -> None:
        self._entered.set()
        assert self._leave.wait(10)

    async def __aenter__(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 10)

    async def __aexit__(self, *error: object) -> None:
        self._leave.set()
        await self._task


def insert(n: int, size: int = 1) -> Callable[[sqlite3.Connection], int]:
    def run(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?, ?)", (n, b"x" * size))
        return n

    return run


def count(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (found,) = connection.execute("SELECT count(*) FROM t").fetchone()
    connection.close()
    return int(found)


async def gathered(writer: Writer, *runs: Callable[[sqlite3.Connection], object]) -> list[object]:
    """Run closures in one transaction."""
    async with Gate(writer):
        tasks = [asyncio.ensure_future(writer.run(run)) for run in runs]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_results_come_back_in_place(writer: Writer, path: Path) -> None:
    assert await gathered(writer, *(insert(n) for n in range(50))) == list(range(50))
    assert count(path) == 50


async def test_a_failing_command_fails_alone(writer: Writer, path: Path) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (100, NULL)")
        raise ValueError("a bug in a closure")

    first, bug, clash, last = await gathered(writer, insert(1), half, insert(1), insert(2))
    assert (first, last) == (1, 2)
    assert isinstance(bug, ValueError)
    assert isinstance(clash, StorageError)
    assert count(path) == 2  # not the half of it


async def test_a_failing_commit_fails_the_whole_batch_and_the_writer_goes_on(
    writer: Writer, connection: sqlite3.Connection, path: Path
) -> None:
    await writer.run(insert(0))
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    outcome = await gathered(writer, insert(1), insert(2, 100_000), insert(3))
    assert [type(error) for error in outcome] == [StorageFull] * 3
    assert len({id(error) for error in outcome}) == 3  # nobody shares a traceback
    assert count(path) == 1
    connection.execute("PRAGMA max_page_count = 1000000")
    assert await gathered(writer, insert(4, 100_000)) == [4]
    assert count(path) == 2


async def test_a_cancelled_caller_does_not_stop_the_command(writer: Writer, path: Path) -> None:
    async with Gate(writer):
        left = asyncio.ensure_future(writer.run(insert(1)))
        stayed = asyncio.ensure_future(writer.run(insert(2)))
        await asyncio.sleep(0)
        left.cancel()
    assert await stayed == 2
    with pytest.raises(asyncio.CancelledError):
        await left
    assert count(path) == 2


async def test_the_queue_is_bounded(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING", 4)
    async with Gate(writer):
        tasks = [asyncio.ensure_future(writer.run(insert(n))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(StorageError) as refused:
            await writer.run(insert(9))
        assert refused.value.code == "storage_behind"
    assert await asyncio.gather(*tasks) == [0, 1, 2]
    assert await writer.run(insert(9)) == 9


async def test_close_carries_out_what_was_submitted(
    connection: sqlite3.Connection, path: Path
) -> None:
    writer = Writer(connection)
    tasks = [asyncio.ensure_future(writer.run(insert(n))) for n in range(600)]
    await asyncio.sleep(0)
    await writer.close()
    assert await asyncio.gather(*tasks) == list(range(600))
    assert count(path) == 600
    with pytest.raises(StorageError) as refused:
        await writer.run(insert(1000))
    assert refused.value.code == "storage_closed"
    await writer.close()


async def test_many_commands_share_a_transaction(writer: Writer, path: Path) -> None:
    """All or nothing is only cheap if it is also few fsyncs."""
    frames = path.with_name("some.db-wal")
    before = frames.stat().st_size if frames.exists() else 0
    await gathered(writer, *(insert(n) for n in range(200)))
    grown = frames.stat().st_size - before
    # 200 one-row transactions would write at least 200 pages of 4 KiB.
    assert grown < 20 * 4096


async def test_another_process_holding_the_lock_is_named(
    writer: Writer, connection: sqlite3.Connection, path: Path
) -> None:
    connection.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as refused:
            await writer.run(insert(1))
        assert refused.value.code == "storage_busy"
        other.execute("ROLLBACK")
    other.close()
    assert await writer.run(insert(1)) == 1
