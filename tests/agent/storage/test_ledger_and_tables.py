"""Amounts and leaves are one transaction; tables that older programs do not know come and stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exclave_agent.errors import StorageError
from exclave_agent.ports import LeafDraft, LedgerEntry
from exclave_agent.storage import leaves
from exclave_agent.storage.home import Storage, prepare
from exclave_agent.storage.migrations.state import ADDITIONS
from exclave_testing.clock import SeededRng
from exclave_testing.homes import Home, execute, intent, state

ENTRY = LedgerEntry("tenant", "2026-11", 5, 7)


def charged(decision: str, *entries: LedgerEntry) -> LeafDraft:
    return LeafDraft("INTENT", {"decision": decision}, {"prompt": "x"}, "s", entries)


def statements(home: Home) -> list[str]:
    """What the writer runs from now on, one word each."""
    said: list[str] = []
    home.storage.writer._connection.set_trace_callback(lambda sql: said.append(sql.split()[0]))
    return said


async def test_a_leaf_without_an_amount_is_one_statement(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(intent("first"))
        said = statements(home)
        await home.log.append(intent("d"))
        assert said == ["INSERT"]
        await home.log.append(charged("e", ENTRY))
        assert said == ["INSERT", "BEGIN", "INSERT", "INSERT", "COMMIT"]


async def test_amounts_of_one_batch_are_added_once_an_account(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(intent("first"))
        other = LedgerEntry("tenant/team:a", "2026-11-26", 1, 0)
        await asyncio.gather(*(home.log.append(charged(f"d{n}", ENTRY, other)) for n in range(300)))
        assert dict(await home.storage.ledger.totals()) == {
            ("tenant", "2026-11"): (1_500, 2_100),
            ("tenant/team:a", "2026-11-26"): (300, 0),
        }


async def test_a_commit_that_fails_leaves_neither_leaf_nor_amount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(charged("d", ENTRY))
        size = home.log.size

        def broken(*_: object) -> None:
            raise StorageError("the ledger is broken")

        with monkeypatch.context() as patch:
            patch.setattr(leaves, "add_to_ledger", broken)
            with pytest.raises(StorageError, match="ledger is broken"):
                await home.log.append(charged("e", ENTRY))
        totals = {("tenant", "2026-11"): (5, 7)}
        assert dict(await home.storage.ledger.totals()) == totals
        place = await home.log.append(charged("f"))
        assert place.seq == size


async def test_a_sum_that_has_come_too_far_stays_and_breaks_no_record(tmp_path: Path) -> None:
    huge = LedgerEntry("tenant", "total", 2**53, -(2**53))
    async with Home(tmp_path) as home:
        await home.log.append(charged("d", huge))
        home.storage.writer._connection.execute(
            f"UPDATE spent SET tokens = {2**62 + 5}, money = {-(2**62) - 5}"
        )
        await home.log.append(charged("e", huge))
        totals = await home.storage.ledger.totals()
        assert totals["tenant", "total"] == (2**62 + 5, -(2**62) - 5)


def shape(home: Path) -> list[tuple[object, ...]]:
    return execute(state(home), "SELECT type, name, sql FROM sqlite_master ORDER BY name")


async def test_a_home_of_before_gets_the_tables_and_keeps_its_schema_number(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for home in (old, new):
        home.mkdir(mode=0o700)
        prepare(home, SeededRng())
    async with Home(old) as opened:
        place = await opened.log.append(intent("d"))
    for table in ADDITIONS:
        execute(state(old), f"DROP TABLE {table}")
    assert shape(old) != shape(new)
    version = execute(state(old), "PRAGMA user_version")
    async with Home(old) as opened:
        assert await opened.database.read(lambda reader: reader.private(place.seq))
        await opened.log.append(charged("e", ENTRY))
    assert shape(old) == shape(new)
    assert execute(state(old), "PRAGMA user_version") == version == [(1,)]


async def test_a_part_of_the_tables_is_made_whole(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    whole = shape(tmp_path)
    execute(state(tmp_path), "INSERT INTO spent VALUES ('tenant', 'total', 1, 2)")
    execute(state(tmp_path), "DROP TABLE completion")
    async with Storage(tmp_path, SeededRng()) as storage:
        assert dict(await storage.ledger.totals()) == {("tenant", "total"): (1, 2)}
    assert shape(tmp_path) == whole


async def test_a_batch_of_the_largest_amounts_breaks_no_record(tmp_path: Path) -> None:
    largest = LedgerEntry("tenant", "total", 2**53, -(2**53))
    async with Home(tmp_path) as home:
        draft = LeafDraft("INTENT", {"decision": "d"}, ledger=(largest,) * 1024)
        await home.log.append(draft)
        totals = await home.storage.ledger.totals()
    assert totals["tenant", "total"] == (1 << 62, -(1 << 62))


async def test_what_is_over_is_found_without_reading_every_kept_answer(tmp_path: Path) -> None:
    async with Home(tmp_path):
        pass
    for statement in (
        "SELECT DISTINCT subject, key_print FROM completion",
        "DELETE FROM completion WHERE expires_ns <= 5",
        "DELETE FROM completion WHERE subject = 1 AND key_print = x'00'",
    ):
        steps = execute(tmp_path / "state.db", f"EXPLAIN QUERY PLAN {statement}")
        assert all(" INDEX " in str(step[-1]) for step in steps), steps
