"""The database: ours or refused, one commit for many, nothing half-done."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event

from exclave_coordinator.errors import StorageError, StorageForeign, StorageFull, Unavailable
from exclave_coordinator.ports import Agent, AgentKey, Desired, Evidence, Presence, Tenant, Tx
from exclave_coordinator.storage import database, tables
from exclave_coordinator.storage.database import Database


def _tenant(name: str) -> Tenant:
    return Tenant(name, 1, bytes(32), bytes(32))


def _insert(tx: Tx, *, name: str) -> bool:
    return tx.tenants.insert(_tenant(name))


def _agent(name: str, state: str = "active") -> Agent:
    return Agent(AgentKey("acme", name), state, b"key", b"", bytes(32), 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A fresh database file."""
    file = tmp_path / "coordinator.db"
    database.create(file)
    return file


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Database]:
    """That database, open."""
    opened = Database(path)
    yield opened
    await asyncio.to_thread(opened.close)


def test_a_new_file_is_private_and_ours(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert database.check_ours(path) == tables.SCHEMA_VERSION
    with pytest.raises(StorageError, match="exists"):
        database.create(path)


def test_missing_foreign_damaged_and_newer_files_are_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        Database(tmp_path / "none.db")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    with pytest.raises(StorageForeign, match="not a database of this program"):
        Database(foreign)
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageForeign, match="damaged"):
        Database(garbage)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(StorageForeign, match="schema version 99"):
        Database(path)


async def test_pragmas(store: Database) -> None:
    with store._engine.connect() as connection:
        for name, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value


async def test_a_failing_job_undoes_only_itself(store: Database) -> None:
    gate = threading.Event()

    def block(_tx: Tx) -> None:
        gate.wait(10)

    def fail(tx: Tx) -> None:
        tx.tenants.insert(_tenant("half"))
        raise RuntimeError("changed my mind")

    # Behind `block`, these three are gathered into one commit.
    first = asyncio.create_task(store.write(block))
    jobs = [
        asyncio.create_task(store.write(lambda tx: tx.tenants.insert(_tenant("one")))),
        asyncio.create_task(store.write(fail)),
        asyncio.create_task(store.write(lambda tx: tx.tenants.insert(_tenant("two")))),
    ]
    await asyncio.sleep(0)
    gate.set()
    await first
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert results[0] is True
    assert results[2] is True
    assert isinstance(results[1], RuntimeError)
    names = await store.read(lambda tx: [t.name for t in tx.tenants.all()])
    assert names == ["one", "two"]


async def test_the_writer_outlives_a_surprise(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr("exclave_coordinator.storage.database._run", surprise)
        with pytest.raises(RuntimeError, match="foresaw"):
            await asyncio.wait_for(store.write(lambda _tx: None), 5)
    assert await asyncio.wait_for(store.write(lambda tx: tx.tenants.insert(_tenant("a"))), 5)


async def test_waiting_jobs_share_commits(store: Database) -> None:
    commits = 0

    @event.listens_for(store._engine, "commit")
    def _count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    await asyncio.gather(
        *(store.write(partial(_insert, name=f"t{number}")) for number in range(200))
    )
    assert len(await store.read(lambda tx: tx.tenants.all())) == 200
    assert commits < 50


async def test_memory_follows_even_when_the_caller_is_gone(store: Database) -> None:
    learnt: list[bool] = []
    gate = threading.Event()

    def job(tx: Tx) -> bool:
        gate.wait(10)
        return tx.tenants.insert(_tenant("acme"))

    task = asyncio.create_task(store.write(job, after=learnt.append))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await store.write(lambda _tx: None)
    assert learnt == [True]


async def test_broken_rules_and_full_disks_change_nothing(store: Database) -> None:
    with pytest.raises(StorageError, match="rule"):
        await store.write(lambda tx: tx.agents.upsert(_agent("orphan")))
    await store.write(lambda tx: tx.tenants.insert(_tenant("acme")))

    def fill(tx: Tx) -> None:
        for number in range(200):
            tx.logs.insert_evidence(
                Evidence(AgentKey("acme", "a"), 1, number, "leaf", 1, "x", bytes([number]) * 65_000)
            )

    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    # The writer's own connection is the one that must run out of room.
    await store.write(
        lambda tx: tx.tenants._db.exec_driver_sql(f"PRAGMA max_page_count={pages + 20}")  # type: ignore[attr-defined]
    )
    with pytest.raises(StorageFull):
        await store.write(fill)
    assert await store.read(lambda tx: tx.logs.evidence(AgentKey("acme", "a"))) == []
    assert await store.write(lambda tx: tx.tenants.get("acme")) is not None


async def test_presence_of_many_in_one_statement(store: Database) -> None:
    await store.write(lambda tx: tx.tenants.insert(_tenant("acme")))

    def add(tx: Tx) -> None:
        for number in range(300):
            tx.agents.upsert(_agent(f"a{number}"))
        tx.agents.upsert(_agent("banned", "banned"))

    await store.write(add)
    batch = [(AgentKey("acme", f"a{n}"), Presence(last_seen=n)) for n in range(300)]
    await store.write(lambda tx: tx.agents.set_presence(batch))
    agent = await store.read(lambda tx: tx.agents.get(AgentKey("acme", "a42")))
    assert agent is not None
    assert agent.presence.last_seen == 42
    # An upsert (a renewed enrollment) does not forget what was observed.
    await store.write(lambda tx: tx.agents.upsert(_agent("a42")))
    agent = await store.read(lambda tx: tx.agents.get(AgentKey("acme", "a42")))
    assert agent is not None
    assert agent.presence.last_seen == 42
    changed = await store.write(lambda tx: tx.agents.set_desired("acme", Desired(1, "d", "r")))
    assert changed == 300


async def test_a_closed_store_refuses(path: Path) -> None:
    store = Database(path)
    pending = asyncio.create_task(store.write(lambda tx: tx.tenants.insert(_tenant("last"))))
    await asyncio.sleep(0)
    await asyncio.to_thread(store.close)
    assert await pending is True  # what was queued is finished first
    with pytest.raises(Unavailable):
        await store.write(lambda _tx: None)
