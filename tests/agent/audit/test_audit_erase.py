"""Erasure: what is kept of a subject is gone from every file, the log says so, and legal holds
stop it; wherever it is cut off, no value opens and the next start finishes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.audit.chain import SD_BUCKET
from exclave_agent.audit.erase import TRIES, Eraser
from exclave_agent.audit.retention import Retainer
from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import KeptCompletion, LeafDraft
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.retention import Retention, RetentionClass
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf
from exclave_testing.clock import FakeClock, SequentialIds
from exclave_testing.homes import Home, execute, intent, state, vault

ADA, BOB = "patient-7", "patient-8"
CANARY = "Zanzibar-Orchid-99173"


def eraser(home: Home) -> Eraser:
    return Eraser(
        home.log, home.storage.subjects, home.storage.truncate, home.clock, SequentialIds()
    )


async def told(home: Home, *subjects: str) -> list[int]:
    """A record of each; their seqs."""
    seqs = []
    for number, subject in enumerate(subjects):
        draft = intent(f"d{home.log.size}-{number}", f"{CANARY} of {subject}", subject)
        seqs.append((await home.log.append(draft)).seq)
    return seqs


async def values(home: Home, seqs: Iterable[int]) -> list[bool]:
    return [bool(await home.database.read(lambda r, s=seq: r.private(s))) for seq in seqs]


async def leaves(home: Home, kind: LeafType) -> list[Leaf]:
    found = await home.database.read(lambda r: [decode_leaf(s.data) for s in r.scan(0)])
    return [leaf for leaf in found if leaf.type is kind]


def pieces(home: Path, subject_row: int) -> list[bytes]:
    """What must not be found any more: sealed values and the wrapped key, in parts of 16 bytes."""
    sealed = execute(state(home), "SELECT sealed FROM leaf WHERE subject = ?", (subject_row,))
    sealed += execute(vault(home), "SELECT wrapped FROM subject WHERE id = ?", (subject_row,))
    found = [bytes(row[0]) for row in sealed if isinstance(row[0], bytes)]
    return [data[at : at + 16] for data in found for at in range(0, len(data) - 16, 16)]


def in_files(home: Path, needles: Iterable[bytes]) -> list[str]:
    """Files that hold any of them: databases with their free pages, write-ahead logs."""
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    return [path.name for path, data in files.items() if any(n in data for n in needles)]


def number_of(home: Path, seq: int) -> int:
    ((found,),) = execute(state(home), "SELECT subject FROM leaf WHERE id & 0xffff = ?", (seq,))
    assert isinstance(found, int)
    return found


# --- what goes, and what stays -------------------------------------------------------------------


async def test_a_subjects_values_are_gone_and_nobody_elses(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        hers = await told(home, ADA, ADA)
        his = await told(home, BOB)
        hers += await told(home, ADA)
        done = await eraser(home).erase(ADA)
        assert (done.leaves, done.answers) == (3, 0)
        assert await values(home, [*hers, *his]) == [False, False, False, True]
        (erasure,) = await leaves(home, LeafType.ERASURE)
        assert erasure.seq == done.seq
        assert erasure.body == {
            "reason": "subject",
            "leaves": "3",
            "answers": "0",
            "first": str(hers[0]),
            "last": str(hers[-1]),
        }
        assert ADA not in str(erasure), "whose it was would outlast what was erased"
        assert await home.storage.subjects.erasing() == []
    async with Home(tmp_path) as home:  # opening verifies the log
        assert home.log.size == 6


async def test_nothing_of_it_is_in_any_file(tmp_path: Path) -> None:
    """Databases, free pages, write-ahead logs: neither the sealed values nor the key."""
    async with Home(tmp_path) as home:
        (first, *_) = await told(home, *[ADA] * 40, BOB)
        row = number_of(tmp_path, first)
        before = pieces(tmp_path, row)
        assert len(before) > 100 and in_files(tmp_path, before), "the search finds what is there"
        await eraser(home).erase(ADA)
        assert in_files(tmp_path, before) == []
        assert in_files(tmp_path, [CANARY.encode(), ADA.encode()]) == [], "never in the clear"
    assert in_files(tmp_path, before) == []


async def test_kept_answers_go_too(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await told(home, ADA)
        completions = home.storage.completions
        for number, subject in enumerate((ADA, ADA, BOB)):
            kept = KeptCompletion(bytes([number]) * 32, b"s" * 32, 5, 2**62)
            await completions.put(kept, subject, b"kept " + subject.encode())
        done = await eraser(home).erase(ADA)
        assert done.answers == 2
        left = [await completions.get(bytes([number]) * 32) for number in range(3)]
        assert left == [None, None, b"kept " + BOB.encode()]


async def test_what_comes_afterwards_has_another_key(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        (old,) = await told(home, ADA)
        await eraser(home).erase(ADA)
        (new,) = await told(home, ADA)
        assert await values(home, [old, new]) == [False, True]
        await eraser(home).erase(ADA)
        assert await values(home, [old, new]) == [False, False]
        assert len(await leaves(home, LeafType.ERASURE)) == 2


@pytest.mark.parametrize("subject", ["nobody", "", "x" * 5000])
async def test_nothing_to_erase_is_said(tmp_path: Path, subject: str) -> None:
    async with Home(tmp_path) as home:
        await told(home, ADA)
        with pytest.raises(BadRequest, match="subject"):
            await eraser(home).erase(subject)
        assert await leaves(home, LeafType.ERASURE) == []


# --- cut off anywhere ----------------------------------------------------------------------------


class Cut(Exception):
    """The process ends here."""


CUTS = ("truncate", "answers", "append", "wipe", "bury")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("where", CUTS)
async def test_an_erasure_that_is_cut_off_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: bool
) -> None:
    async with Home(tmp_path) as home:
        hers = await told(home, *[ADA] * 3)
        his = await told(home, BOB)
        before = pieces(tmp_path, number_of(tmp_path, hers[0]))
        made = eraser(home)
        places: dict[str, tuple[Any, str]] = {
            "truncate": (made, "_truncate"),
            "answers": (home.storage.subjects, "drop_answers"),
            "append": (home.log, "append_once"),
            "wipe": (home.database, "wipe"),
            "bury": (home.storage.subjects, "bury"),
        }
        owner, name = places[where]
        work = getattr(owner, name)

        async def cut(*args: Any, **named: Any) -> None:
            if after:
                await work(*args, **named)
            raise Cut

        monkeypatch.setattr(owner, name, cut)
        with pytest.raises(Cut):
            await made.erase(ADA)
        monkeypatch.undo()
        assert await values(home, [*hers, *his]) == [False] * 3 + [True], "the key went first"
    async with Home(tmp_path) as home:
        assert await values(home, hers) == [False] * 3
        await eraser(home).resume()
        await eraser(home).resume()
        (erasure,) = await leaves(home, LeafType.ERASURE)
        assert erasure.body["leaves"] == "3"
        assert in_files(tmp_path, before) == []
        assert await home.storage.subjects.erasing() == []
        assert await values(home, his) == [True]


async def test_a_number_is_nobody_elses_while_values_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite gives a deleted row's number away again: another's key would be tried on them."""
    async with Home(tmp_path) as home:
        (seq,) = await told(home, ADA)
        made = eraser(home)

        async def cut(*_: object) -> None:
            raise Cut

        monkeypatch.setattr(home.storage.subjects, "drop_answers", cut)
        with pytest.raises(Cut):
            await made.erase(ADA)
        (other,) = await told(home, BOB)
        assert number_of(tmp_path, other) != number_of(tmp_path, seq)
        assert await values(home, [seq, other]) == [False, True]


class Hasty(FakeClock):
    """Whoever sleeps is woken at once."""

    async def sleep(self, seconds: float) -> None:
        self.step(seconds)


async def test_whoever_reads_is_waited_for_and_then_it_is_said(tmp_path: Path) -> None:
    async with Home(tmp_path, clock=Hasty()) as home:
        (seq,) = await told(home, ADA)
        busy = [True] * TRIES
        tries = 0

        async def truncate() -> bool:
            nonlocal tries
            tries += 1
            return not busy.pop() if busy else await home.storage.truncate()

        made = eraser(home)
        made._truncate = truncate
        with pytest.raises(StorageError) as caught:
            await made.erase(ADA)
        assert caught.value.code == "erasure_waits" and tries == TRIES
        assert await values(home, [seq]) == [False]
        assert await leaves(home, LeafType.ERASURE) == [], "not before no file holds the key"
        busy += [True]
        await made.resume()
        assert len(await leaves(home, LeafType.ERASURE)) == 1


# --- legal holds ---------------------------------------------------------------------------------

GONE = RetentionClass("gone", 0)


class Policy:
    """A `retention.Governing`."""

    def __init__(self) -> None:
        self.retention: Retention | None = Retention("keep", "1", "", (GONE,))
        self.approvals: dict[str, Approval] = {}


def retainer(home: Home) -> Retainer:
    return Retainer(home.log, home.clock, Policy, home.storage.truncate, lambda decision: False)


async def classed(home: Home, subject: str) -> int:
    body = {"decision": f"c{home.log.size}", "retention": "gone"}
    return (await home.log.append(LeafDraft("INTENT", dict(body), {"prompt": "x"}, subject))).seq


async def test_a_hold_stops_erasure_and_retention_until_it_is_lifted(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        assert isinstance(home.clock, FakeClock)
        made = eraser(home)
        hers, his = await classed(home, ADA), await classed(home, BOB)
        hold = await made.hold("CASE-2026/17", ADA)
        assert [each.subject for each in await made.holds()] == [ADA]
        with pytest.raises(BadRequest, match="CASE-2026/17"):
            await made.erase(ADA)
        home.clock.step(60)
        await retainer(home).run()
        assert await values(home, [hers, his]) == [True, False]
        await retainer(home).run()
        await made.lift(hold.name)
        await retainer(home).run()
        assert await values(home, [hers, his]) == [False, False]
        first, second = await leaves(home, LeafType.OVERRIDE)
        assert first.body == {
            "what": "legal_hold",
            "hold": hold.name,
            "reference": "CASE-2026/17",
            "stands": True,
            "of": "subject",
        }
        assert second.body == first.body | {"stands": False}
        assert ADA not in str((first, second)) and len(first.sd) == SD_BUCKET
        assert in_files(tmp_path, [ADA.encode()]) == []
        assert (await made.erase(ADA)).leaves == 2, "what the hold itself recorded of the subject"


async def test_a_hold_on_everything(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        assert isinstance(home.clock, FakeClock)
        made = eraser(home)
        seqs = [await classed(home, ADA), await classed(home, BOB)]
        hold = await made.hold("audit", None)
        home.clock.step(60)
        await retainer(home).run()
        for subject in (ADA, BOB):
            with pytest.raises(BadRequest, match="audit"):
                await made.erase(subject)
        assert await values(home, seqs) == [True, True]
        await made.lift(hold.name)
        assert (await made.erase(ADA)).leaves == 1


async def test_a_hold_on_somebody_of_whom_nothing_is_kept_yet(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        assert isinstance(home.clock, FakeClock)
        await eraser(home).hold("soon", ADA)
        seq = await classed(home, ADA)
        home.clock.step(60)
        await retainer(home).run()
        assert await values(home, [seq]) == [True]


async def test_a_hold_that_is_set_while_retention_looks_stops_that_too(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        assert isinstance(home.clock, FakeClock)
        seq = await classed(home, ADA)
        home.clock.step(60)
        chore = retainer(home)
        forget = home.log.forget

        async def held(*args: Any, **named: Any) -> Any:
            await eraser(home).hold("just-now", ADA)
            return await forget(*args, **named)

        home.log.forget = held  # type: ignore[method-assign]
        await chore.run()
        assert await values(home, [seq]) == [True]
        assert await leaves(home, LeafType.ERASURE) == []


@pytest.mark.parametrize("reference", ["", "a b", "-x", "x" * 65, "ü", "a\nb"])
async def test_a_reference_is_a_cases_number(tmp_path: Path, reference: str) -> None:
    async with Home(tmp_path) as home:
        with pytest.raises(BadRequest, match="reference"):
            await eraser(home).hold(reference, None)
        assert await eraser(home).holds() == []


async def test_holds_are_bounded_and_one_that_is_not_there_is_not_lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exclave_agent.audit.erase.MAX_HOLDS", 1)
    async with Home(tmp_path) as home:
        made = eraser(home)
        await made.hold("one", None)
        with pytest.raises(BadRequest, match="stand already"):
            await made.hold("two", None)
        with pytest.raises(BadRequest, match="no legal hold"):
            await made.lift("another")
