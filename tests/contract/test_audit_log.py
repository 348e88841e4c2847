"""What every AuditLog promises: the real one on disk, and the fake that stands in for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from exclave_agent.audit.chain import SD_BUCKET
from exclave_agent.audit.store import LogReader
from exclave_agent.errors import StorageError
from exclave_agent.ports import AuditLog, LeafDraft
from exclave_protocol.leaf import check_follows, decode_leaf
from exclave_protocol.tree import leaf_hash
from exclave_testing.audit import ORIGIN, FakeAuditLog
from exclave_testing.homes import Home, intent


class Subject(Protocol):
    log: AuditLog

    async def leaves(self) -> list[bytes]: ...


class Fake:
    def __init__(self) -> None:
        self.fake = FakeAuditLog()
        self.log: AuditLog = self.fake

    async def leaves(self) -> list[bytes]:
        return list(self.fake.leaves)


class Real:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.log: AuditLog = home.log

    async def leaves(self) -> list[bytes]:
        def everything(reader: LogReader) -> list[bytes]:
            return reader.leaves(0, 10_000, 1 << 30)

        return await self.home.database.read(everything)


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        yield Fake()
        return
    async with Home(tmp_path) as home:
        yield Real(home)


async def test_leaves_form_one_chain_whoever_appends(subject: Subject) -> None:
    appended = await asyncio.gather(
        *(subject.log.append(intent(f"d{number}")) for number in range(300))
    )
    leaves = await subject.leaves()
    assert len(leaves) == 301
    prev = bytes(32)
    for seq, data in enumerate(leaves):
        leaf = decode_leaf(data)
        check_follows(leaf, log=ORIGIN, epoch=1, seq=seq, prev=prev)
        prev = leaf_hash(data)
    for number, place in enumerate(appended):
        assert place.epoch == 1
        assert place.hash == leaf_hash(leaves[place.seq])
        assert decode_leaf(leaves[place.seq]).body["decision"] == f"d{number}"


async def test_order_of_one_caller_is_kept(subject: Subject) -> None:
    seqs = [(await subject.log.append(intent(f"d{number}"))).seq for number in range(5)]
    assert seqs == [1, 2, 3, 4, 5]


async def test_values_leave_commitments_only(subject: Subject) -> None:
    draft = LeafDraft("INTENT", {"decision": "d"}, {"prompt": "geheim", "context": ["x"]}, "s")
    place = await subject.log.append(draft)
    data = (await subject.leaves())[place.seq]
    assert b"geheim" not in data
    assert len(decode_leaf(data).sd) == SD_BUCKET


async def test_equal_values_have_unequal_commitments(subject: Subject) -> None:
    first = await subject.log.append(intent("d1", "same"))
    second = await subject.log.append(intent("d2", "same"))
    leaves = await subject.leaves()
    assert decode_leaf(leaves[first.seq]).sd != decode_leaf(leaves[second.seq]).sd


@pytest.mark.parametrize(
    "draft",
    [
        LeafDraft("NOTHING", {}),
        LeafDraft("GENESIS", {}),
        LeafDraft("INTENT", {"ratio": 0.5}),  # type: ignore[dict-item]  # what a bug would send
        LeafDraft("INTENT", {"text": "x" * 70_000}),
        LeafDraft("INTENT", {"decision": "d"}, {"prompt": "\ud800"}),
        LeafDraft("INTENT", {"decision": "d"}, {"not a name": "x"}),
    ],
    ids=["type", "second-genesis", "float", "too-long", "surrogate", "field-name"],
)
async def test_a_draft_outside_the_format_fails_alone(subject: Subject, draft: LeafDraft) -> None:
    before, refused, after = await asyncio.gather(
        subject.log.append(intent("before")),
        subject.log.append(draft),
        subject.log.append(intent("after")),
        return_exceptions=True,
    )
    assert isinstance(refused, StorageError)
    assert refused.code == "record_invalid"
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert {before.seq, after.seq} == {1, 2}
    assert len(await subject.leaves()) == 3


async def test_a_cancelled_caller_leaves_a_whole_log(subject: Subject) -> None:
    task = asyncio.create_task(subject.log.append(intent("left")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    place = await subject.log.append(intent("stayed"))
    leaves = await subject.leaves()
    assert len(leaves) == place.seq + 1
    assert decode_leaf(leaves[-1]).body["decision"] == "stayed"
