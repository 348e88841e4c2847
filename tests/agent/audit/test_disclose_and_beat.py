"""Showing records, disclosing single fields, and the heartbeat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exclave_agent.audit.chain import SD_BUCKET
from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.disclose import disclose, find, record_disclosure, show
from exclave_agent.audit.heartbeat import Heartbeat
from exclave_agent.errors import BadRequest, StorageError, StorageFull
from exclave_agent.ports import LeafDraft
from exclave_agent.storage.home import read_log
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.opened import parse_opening
from exclave_testing.audit import signing_key
from exclave_testing.clock import FakeClock
from exclave_testing.homes import Home, execute, intent, result, state, vault


async def test_a_record_is_shown_with_its_values(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        first = await home.log.append(intent("d1", "the question"))
        last = await home.log.append(result("d1", first.seq, "the answer"))
        assert await home.database.read(lambda r: find(r, "d1")) == [first.seq, last.seq]
        assert await home.database.read(lambda r: find(r, "1")) == [1]
        shown = await home.database.read(lambda r: show(r, first.seq))
    assert shown.fields == {"prompt": "the question"}
    assert shown.leaf.body == {"decision": "d1"}
    assert len(shown.closed) == SD_BUCKET - 1, "decoys"


@pytest.mark.parametrize("reference", ["99", "no-such-decision", "", "-1", "1" * 30])
async def test_what_is_not_there_is_said(tmp_path: Path, reference: str) -> None:
    async with Home(tmp_path) as home:
        with pytest.raises(BadRequest):
            await home.database.read(lambda r: find(r, reference))


async def test_a_disclosure_opens_one_field_and_no_other(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        private: dict[str, JsonValue] = {"prompt": "the question", "context": ["a page"]}
        place = await home.log.append(LeafDraft("INTENT", {"decision": "d"}, private, "s"))
        data, item = await home.database.read(lambda r: disclose(r, place.seq, "prompt"))
        appended = await record_disclosure(home.log, place.seq, item)
        leaf = await home.database.read(lambda r: r.leaf(appended.seq))
    opening = parse_opening(data)
    assert [(d.name, d.value) for d in opening.disclosures] == [("prompt", "the question")]
    assert b"a page" not in data
    assert leaf is not None
    recorded = decode_leaf(leaf.data)
    assert recorded.type == "DISCLOSURE"
    assert recorded.body == {"record": str(place.seq), "digest": item.digest}


async def test_a_field_that_is_not_there_is_named_by_what_is(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("d"))
    with pytest.raises(BadRequest, match="it has: prompt"):
        read_log(tmp_path, lambda r: disclose(r, place.seq, "output"))


async def test_a_lost_value_is_shown_as_closed(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("d"))
    execute(vault(tmp_path), "DELETE FROM subject")
    shown = read_log(tmp_path, lambda r: show(r, place.seq))
    assert shown.fields == {}
    assert shown.closed == shown.leaf.sd


async def test_an_altered_record_is_not_shown(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("d"))
    execute(state(tmp_path), "UPDATE leaf SET hash = zeroblob(32) WHERE decision = 'd'")
    with pytest.raises(StorageError, match=f"leaf {place.seq} "):
        read_log(tmp_path, lambda r: show(r, place.seq))


async def test_the_heart_beats_and_survives_a_full_disk(tmp_path: Path) -> None:
    clock = FakeClock()
    async with Home(tmp_path, clock=clock) as home:
        checkpointer = Checkpointer(home.database, signing_key())
        counts = {"decisions": 3}
        heart = Heartbeat(home.log, checkpointer, clock, counts=lambda: counts, interval=60)
        task = asyncio.create_task(heart.run())
        for beat in range(1, 4):
            await clock.until_sleepers(1)
            await clock.advance(60)
            await clock.until_sleepers(1)
            newest = await home.database.read(lambda r: r.checkpoint(cosigned=False))
            assert newest is not None
            assert newest.size == home.log.size == beat + 1
        connection = home.storage.writer._connection
        await home.storage.writer.run(lambda c: c.execute("PRAGMA max_page_count = 1"))
        big = LeafDraft("INCIDENT", {"text": "x" * 60_000})
        with pytest.raises(StorageFull):
            await asyncio.gather(*(home.log.append(big) for _ in range(20)))
        size = home.log.size
        await clock.advance(60)
        await clock.until_sleepers(1)
        assert home.log.size in range(size, size + 3)  # small leaves may still fit a page
        await home.storage.writer.run(lambda c: c.execute("PRAGMA max_page_count = 1000000"))
        assert connection.in_transaction is False
        await clock.advance(60)
        await clock.until_sleepers(1)
        assert home.log.size > size
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
