"""Retention: what is over is gone from the disk, the log says so, and still verifies."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave_agent.audit import retention
from exclave_agent.audit.retention import MAX_LEAVES, Retainer
from exclave_agent.audit.verify import verify_tail
from exclave_agent.errors import StorageError
from exclave_agent.ports import LeafDraft
from exclave_agent.storage.connect import open_reader
from exclave_agent.storage.leaves import LeafReader
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.retention import Retention, RetentionClass
from exclave_policy.model import ANY
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf
from exclave_testing.audit import ORIGIN
from exclave_testing.clock import FakeClock
from exclave_testing.homes import KEY, Home, execute, state

SHORT = RetentionClass("short", 30, frozenset({"health"}))
NONE = RetentionClass("none", 0)


def keeping(*classes: RetentionClass) -> Retention:
    return Retention("keep", "1", "", classes)


@dataclass
class Policy:
    """A `retention.Governing`."""

    retention: Retention | None
    approvals: dict[str, Approval]


class Chore:
    """A Retainer over a home, and what it reads."""

    def __init__(self, home: Home, *classes: RetentionClass) -> None:
        self.retention: Retention | None = keeping(*classes) if classes else None
        self.approvals: dict[str, Approval] = {}
        self.live: set[str] = set()
        self.truncated = True
        self.home = home
        self.retainer = Retainer(
            home.log,
            home.clock,
            lambda: Policy(self.retention, self.approvals),
            self._truncate,
            lambda decision: decision in self.live,
        )

    async def _truncate(self) -> bool:
        return self.truncated and await self.home.storage.truncate()


def record(decision: str, retention: str = "short", **body: str) -> LeafDraft:
    named = {"retention": retention} if retention else {}
    return LeafDraft(
        "INTENT", {"decision": decision, **named, **body}, {"prompt": "raw"}, "patient-7"
    )


async def decided(home: Home, decision: str, retention: str = "short", **body: str) -> None:
    """An INTENT with values, and a RESULT without."""
    await home.log.append(record(decision, retention, **body))
    intent = str(home.log.size - 1)
    await home.log.append(LeafDraft("RESULT", {"decision": decision, "intent": intent}))


def clock(home: Home) -> FakeClock:
    assert isinstance(home.clock, FakeClock)
    return home.clock


async def leaves(home: Home) -> list[Leaf]:
    return await home.database.read(lambda reader: [decode_leaf(s.data) for s in reader.scan(0)])


async def values(home: Home, seq: int) -> list[str]:
    return await home.database.read(lambda reader: reader.private(seq))


def later(home: Home, days: float) -> None:
    clock(home).step(days * 86_400)


async def test_values_go_when_their_days_are_over_and_the_leaf_says_so(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        await decided(home, "a")
        await decided(home, "b", "other")
        later(home, 29)
        await decided(home, "c")
        await chore.retainer.run()
        assert len(await leaves(home)) == 7, "nothing is due"
        later(home, 1.5)
        await chore.retainer.run()
        (erased,) = [leaf for leaf in await leaves(home) if leaf.type is LeafType.ERASURE]
        assert erased.body == {
            "reason": "retention",
            "class": "short",
            "days": 30,
            "first": "1",
            "last": "1",
            "leaves": "1",
        }
        assert [bool(await values(home, seq)) for seq in (1, 3, 5)] == [False, True, True]
        await chore.retainer.run()
        assert len(await leaves(home)) == 8, "once"
    async with Home(tmp_path) as home:  # opening verifies the tail
        assert home.log.size == 8


async def test_nothing_of_them_is_left_on_the_disk(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        await decided(home, "a", "none")
        ((sealed,),) = execute(state(tmp_path), "SELECT sealed FROM leaf WHERE id & 0xffff = 1")
        assert isinstance(sealed, bytes) and found(tmp_path, sealed)
        later(home, 0.01)
        await chore.retainer.run()
        assert not found(tmp_path, sealed), "neither in the file nor in its write-ahead log"


def found(home: Path, needle: bytes) -> bool:
    """Whether a piece of it is in any file."""
    pieces = [needle[place : place + 16] for place in range(0, len(needle) - 16, 16)]
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    return any(piece in data for piece in pieces for data in files)


async def test_a_log_that_somebody_reads_is_emptied_by_the_next_run(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        chore.truncated = False
        await decided(home, "a", "none")
        ((sealed,),) = execute(state(tmp_path), "SELECT sealed FROM leaf WHERE id & 0xffff = 1")
        assert isinstance(sealed, bytes)
        later(home, 0.01)
        await chore.retainer.run()
        chore.truncated = True
        await chore.retainer.run()
        assert not found(tmp_path, sealed)


async def test_many_go_in_bounded_steps(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        for number in range(MAX_LEAVES + 3):
            await decided(home, f"d{number}", "none")
        later(home, 1)
        await chore.retainer.run()
        erased = [leaf for leaf in await leaves(home) if leaf.type is LeafType.ERASURE]
        assert [leaf.body["leaves"] for leaf in erased] == [str(MAX_LEAVES), "3"]


async def test_a_clock_that_steps_back_ends_nothing_early(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        later(home, 100)
        await decided(home, "a")
        later(home, -90)
        await chore.retainer.run()
        assert await values(home, 1)


async def test_another_policy_ends_them_sooner_or_later(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        await decided(home, "a")
        later(home, 10)
        chore.retention = keeping(RetentionClass("short", 365))
        await chore.retainer.run()
        assert await values(home, 1)
        chore.retention = None
        await chore.retainer.run()
        chore.retention = keeping(RetentionClass("renamed", 1))
        await chore.retainer.run()
        assert await values(home, 1), "a class that is not there any more keeps its values"
        chore.retention = keeping(RetentionClass("short", 5))
        await chore.retainer.run()
        assert not await values(home, 1)


async def test_records_from_before_go_by_their_label(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        await home.log.append(record("a", "", data_class="health"))
        answer = LeafDraft(
            "RESULT", {"decision": "a", "intent": "1"}, {"output": "raw"}, "patient-7"
        )
        await home.log.append(answer)
        await decided(home, "b", "", data_class="other")
        later(home, 31)
        await chore.retainer.run()
        assert [bool(await values(home, seq)) for seq in (1, 2, 3)] == [False, False, True]


async def test_what_is_asked_stays_while_it_is_answered(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        await decided(home, "a", "none")
        chore.live.add("slow")
        await home.log.append(record("slow", "none"))
        await decided(home, "b", "none")
        later(home, 1)
        await chore.retainer.run()
        assert [bool(await values(home, seq)) for seq in (1, 3, 4)] == [False, True, False]
        await home.log.append(LeafDraft("RESULT", {"decision": "slow", "intent": "3"}))
        await chore.retainer.run()
        assert await values(home, 3), "its RESULT may be written, and the answer not given yet"
        chore.live.clear()
        await chore.retainer.run()
        assert not await values(home, 3)


async def test_an_intent_without_its_result_holds_up_nothing(tmp_path: Path) -> None:
    """Storage refused the RESULT, or the process was killed before it."""
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT, RetentionClass("brief", 1))
        await home.log.append(record("lost"))
        for number in range(3):
            await decided(home, f"b{number}", "brief")
        later(home, 29)
        await chore.retainer.run()
        assert [bool(await values(home, seq)) for seq in (1, 2, 4, 6)] == [True, *3 * [False]]
        later(home, 2)
        await chore.retainer.run()
        assert not await values(home, 1), "it has ended too"


async def test_a_label_that_a_class_gets_reaches_what_is_there(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        await decided(home, "a", "", data_class="other")
        await decided(home, "b", "", data_class="health")
        later(home, 31)
        await chore.retainer.run()
        assert [bool(await values(home, seq)) for seq in (1, 3)] == [True, False]
        chore.retention = keeping(RetentionClass("short", 30, frozenset({"health", "other"})))
        await chore.retainer.run()
        assert not await values(home, 1)
        erased = [leaf for leaf in await leaves(home) if leaf.type is LeafType.ERASURE]
        assert [leaf.body["leaves"] for leaf in erased] == ["1", "1"], "nothing goes twice"


async def test_a_class_for_all_others_gets_what_another_class_gives_up(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        rest = RetentionClass("rest", 1, frozenset({ANY}))
        chore = Chore(home, RetentionClass("long", 365, frozenset({"other"})), rest)
        await decided(home, "a", "", data_class="other")
        later(home, 31)
        await chore.retainer.run()
        assert await values(home, 1)
        chore.retention = keeping(rest)
        await chore.retainer.run()
        assert not await values(home, 1)


async def test_a_walk_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        await decided(home, "a", "none")
        later(home, 1)
        await chore.retainer.run()
        for damaged in (b"17", b"{}", b"\xff", b'{"next":"x","left":[],"labels":""}'):
            await home.database.note_walk("none", damaged)
            await chore.retainer.run()
        erased = [leaf for leaf in await leaves(home) if leaf.type is LeafType.ERASURE]
        assert len(erased) == 1


FOUR_EYES = Approval("four-eyes", "1", "", frozenset({"reviewer"}), expires_seconds=3 * 86_400)


async def held(home: Home, decision: str, approval: str = "four-eyes") -> None:
    """A question, and an answer that waits for people."""
    await home.log.append(record(decision, "none"))
    body: dict[str, JsonValue] = {"decision": decision, "approvals": [approval]}
    body["retention"] = "none"
    await home.log.append(LeafDraft("RESULT", body, {"discarded": ["the answer"]}, "patient-7"))


async def test_what_waits_for_people_stays_as_long_as_it_may_wait(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        chore.approvals["four-eyes"] = FOUR_EYES
        await held(home, "waits")
        await decided(home, "a", "none")
        later(home, 2)
        await chore.retainer.run()
        kept = [bool(await values(home, seq)) for seq in (1, 2, 3)]
        assert kept == [True, True, False], "the question too: whoever approves must see it"
        later(home, 1.5)
        await chore.retainer.run()
        assert [bool(await values(home, seq)) for seq in (1, 2)] == [False, False]
    async with Home(tmp_path) as home:
        assert home.log.size == 7, "both erasures are there, and the log verifies"


async def test_an_approval_that_is_gone_keeps_nothing(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        chore.approvals["four-eyes"] = FOUR_EYES
        await held(home, "waits")
        later(home, 1)
        await chore.retainer.run()
        assert await values(home, 2)
        chore.approvals = {"another": FOUR_EYES}
        await chore.retainer.run()
        assert not await values(home, 2), "nobody can approve it any more"


async def test_what_is_left_is_bounded_and_nothing_of_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_LEFT", 2)
    monkeypatch.setattr(retention, "MAX_LEAVES", 2)
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        for number in range(5):
            chore.live.add(f"d{number}")
            await decided(home, f"d{number}", "none")
        later(home, 1)
        await chore.retainer.run()
        await chore.retainer.run()
        assert all([await values(home, seq) for seq in (1, 3, 5, 7, 9)])
        chore.live.clear()
        await chore.retainer.run()
        assert not any([await values(home, seq) for seq in (1, 3, 5, 7, 9)])


async def test_many_others_are_walked_past_in_bounded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_SCANNED", 3)
    async with Home(tmp_path) as home:
        chore = Chore(home, SHORT)
        for number in range(20):
            await decided(home, f"o{number}", "other")
        await decided(home, "a")
        later(home, 31)
        await chore.retainer.run()
        assert not await values(home, 41)
        assert await values(home, 39)


async def test_the_whole_log_verifies_without_them(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        for number in range(9):
            await decided(home, f"d{number}", "none")
        later(home, 1)
        await chore.retainer.run()
    with closing(open_reader(state(tmp_path))) as connection:
        found = verify_tail(LeafReader(connection, None, 1), origin=ORIGIN, epoch=1, key=KEY)
    assert found.size == 20


async def test_what_could_not_be_recorded_was_not_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Home(tmp_path) as home:
        chore = Chore(home, NONE)
        await decided(home, "a", "none")
        later(home, 1)

        def refuse(*_: object) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(home.database._tail, "insert", refuse)
        with pytest.raises(StorageError):
            await chore.retainer.run()
        monkeypatch.undo()
        assert await values(home, 1)
        await chore.retainer.run()
        assert not await values(home, 1)


async def test_values_of_a_former_epoch_go_too(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await decided(home, "a")
        former = home.log.store.origin
    async with Home(tmp_path, epoch=2) as home:
        chore = Chore(home, SHORT)
        await decided(home, "b")
        later(home, 31)
        await chore.retainer.run()
        found = [leaf for leaf in await leaves(home) if leaf.type is LeafType.ERASURE]
        assert [leaf.body.get("log") for leaf in found] == [None, former]
        gone = await home.database.read(lambda reader: reader.private(1), epoch=1)
        assert (gone, await values(home, 1)) == ([], [])
        await chore.retainer.run()
        assert len([x for x in await leaves(home) if x.type is LeafType.ERASURE]) == 2, "once"
