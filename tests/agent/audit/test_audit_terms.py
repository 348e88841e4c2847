"""Terms and fencing: one home at a time writes a log; a copy is caught by its own signature."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.audit import drafts
from exclave_agent.audit import epoch as epochs
from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.epoch import Epoch, Frost
from exclave_agent.audit.erase import Eraser
from exclave_agent.audit.rotate import Rotation
from exclave_agent.audit.term import Terms
from exclave_agent.audit.upload import Uploader
from exclave_agent.errors import AuditDiverged, LinkError, LogFrozen, StorageError
from exclave_agent.ports import AuditHead
from exclave_protocol.checkpoint import (
    Checkpoint,
    open_checkpoint,
    open_signed,
    sign_checkpoint,
)
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.note import open_note
from exclave_protocol.term import opens
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, FakeAuditSink, signing_key, witness_key
from exclave_testing.clock import FakeClock, SequentialIds
from exclave_testing.homes import KEY, Home, execute, intent, state

WITNESS = witness_key()


@dataclass
class Process:
    """An agent's process, as far as its log goes: booted, in a term of its own."""

    home: Home
    terms: Terms
    uploader: Uploader
    frozen: list[Frost] = field(default_factory=list)

    async def caught(self) -> AuditDiverged:
        with pytest.raises(AuditDiverged) as refused:
            await self.uploader.once()
        await self.uploader._report(refused.value)
        return refused.value


@asynccontextmanager
async def booted(path: Path, sink: FakeAuditSink, seed: int = 1) -> AsyncIterator[Process]:
    async with Home(path, seed=seed) as home:
        terms = home.terms()
        await home.boot(terms=terms)
        made: Process

        async def freeze(found: Frost) -> None:
            made.frozen.append(found)

        uploader = Uploader(
            home.log,
            Checkpointer(home.database, terms),
            sink,
            terms=terms,
            witness=WITNESS.verify_key,
            freeze=freeze,
            clock=home.clock,
            rng=home.rng,
        )
        made = Process(home, terms, uploader)
        yield made


@pytest.fixture
def sink() -> FakeAuditSink:
    return FakeAuditSink(KEY)


def copy(home: Path, name: str) -> Path:
    """As a backup, or an image of the machine, has it."""
    return Path(
        shutil.copytree(home, home.with_name(name), ignore=shutil.ignore_patterns("*.lock"))
    )


async def test_each_start_signs_with_a_key_of_its_own(tmp_path: Path, sink: FakeAuditSink) -> None:
    publics = []
    for seed in range(3):
        async with booted(tmp_path, sink, seed) as process:
            await process.uploader.once()
            assert sink.term is not None
            assert sink.term.term == seed + 1
            publics.append(sink.term.public)
            leaves = await process.home.database.read(lambda r: r.leaves(0, 99, 1 << 20))
            boot = decode_leaf(leaves[-1])
            assert boot.body["term_vkey"] == process.terms.key.plain_key.vkey
    assert len(set(publics)) == 3


@attack("A39")
async def test_no_key_of_a_term_is_in_the_home(tmp_path: Path, sink: FakeAuditSink) -> None:
    async with booted(tmp_path / "home", sink) as process:
        await process.uploader.once()
        seed = process.terms.key.private.private_bytes_raw()
        nonce = process.terms._nonce
    files = [file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert not any(seed in data or seed.hex().encode() in data for data in files)
    assert len(files) > 2
    assert nonce


async def test_a_stock_verifier_takes_the_key_that_boot_names(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    async with booted(tmp_path, sink) as process:
        await process.uploader.once()
        note = sink.notes[-1]
        assert open_note(note, [process.terms.key.plain_key]).verified
        assert open_signed(note, KEY).certificate == sink.term


async def test_a_rotation_is_on_record_and_goes_on(tmp_path: Path, sink: FakeAuditSink) -> None:
    async with booted(tmp_path, sink) as process:
        clock = process.home.clock
        assert isinstance(clock, FakeClock)
        await process.uploader.once()
        log, begun = process.home.log, process.uploader.begin_term
        rotation = Rotation(log, process.terms, begun, clock, 3600)
        task = asyncio.create_task(rotation.run())
        await clock.until_sleepers(1)
        await clock.advance(3600)
        await clock.until_sleepers(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await process.uploader.once()
        assert sink.term is not None
        assert sink.term.term == 2
        assert sink.witnessed_size == log.size
        assert decode_leaf(sink.leaves[-1]).type == "KEY_ROTATE"
        assert process.frozen == []


# --- copies -------------------------------------------------------------------------------------


@attack("A36")
async def test_a_clone_that_starts_stops_the_one_it_was_copied_from(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    original = tmp_path / "original"
    async with booted(original, sink, 1) as first:
        await first.uploader.once()
        async with booted(copy(original, "clone"), sink, 2) as second:
            await second.uploader.once()  # it has what the original had: nothing tells them apart
            await first.home.log.append(intent("one"))
            error = await first.caught()
            assert error.code == "fenced"
            assert [found.code for found in first.frozen] == ["fenced"]
            held = open_signed(error.note, KEY)
            assert held.certificate == second.terms.key.certificate
            await second.home.log.append(intent("two"))
            await second.uploader.once()
            assert second.frozen == []


@attack("A37")
async def test_a_clone_that_starts_second_is_stopped(tmp_path: Path, sink: FakeAuditSink) -> None:
    original = tmp_path / "original"
    async with booted(original, sink, 1) as process:
        await process.uploader.once()
    clone = copy(original, "clone")
    async with booted(original, sink, 2) as process:
        await process.uploader.once()
    size = len(sink.leaves)
    async with booted(clone, sink, 3) as process:
        error = await process.caught()
        assert error.code in {"head_ahead", "head_forked", "fenced"}
        assert process.frozen
    assert len(sink.leaves) == size


@attack("A38")
async def test_a_home_put_back_from_a_backup_is_stopped(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    home = tmp_path / "home"
    async with booted(home, sink, 1) as process:
        await process.uploader.once()
        backup = copy(home, "backup")
        for number in range(9):
            await process.home.log.append(intent(f"later {number}"))
        await process.uploader.once()
    async with booted(backup, sink, 2) as process:
        error = await process.caught()
        assert error.code == "head_ahead"
        assert [found.code for found in process.frozen] == ["head_ahead"]


@attack("W42")
async def test_a_word_alone_freezes_nothing(tmp_path: Path, sink: FakeAuditSink) -> None:
    async with booted(tmp_path, sink) as process:
        await process.uploader.once()
        other = signing_key(seed=b"z" * 32)
        foreign = open_note(sink.notes[-1], [KEY]).text.encode() + b"\n"
        foreign += b"".join(s.line() for s in other.signatures(foreign.decode()[:-1]))
        for note in (b"", b"not a note", foreign, sink.term_note):
            await process.uploader._report(
                AuditDiverged("fenced", code="fenced", evidence=note or b"-", note=note)
            )
        sink.head_lie = AuditHead(99, 0, b"")
        process.uploader._known = False
        assert (await process.caught()).code == "head_ahead"
        assert process.frozen == []


async def test_a_frozen_log_takes_no_decision_and_stays_frozen(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await epochs.freeze(home.storage.state, Frost("fenced", "a copy is at work"))
    async with Home(tmp_path) as home:
        found = await epochs.frost(home.storage.state)
        assert found is not None
        home.log.frozen = found.error()
        with pytest.raises(LogFrozen) as refused:
            await home.log.append(intent("one"))
        assert "exclave-agent audit recover" in refused.value.message
        await home.boot()


# --- answers that are lost ----------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2, 40])
async def test_lost_answers_do_not_lock_a_home_out(
    tmp_path: Path, sink: FakeAuditSink, lost: int
) -> None:
    """The coordinator began the term, and the process died before it knew."""
    async with booted(tmp_path, sink, 0) as process:
        await process.uploader.once()
    original = sink.begin_term
    for seed in range(1, lost + 1):
        arrives = seed % 3 != 2

        async def breaks(claim: Any, arrives: bool = arrives) -> bytes:
            if arrives:
                await original(claim)
            raise LinkError("the connection broke", code="unreachable")

        sink.begin_term = breaks  # type: ignore[method-assign]  # its answer is lost
        async with booted(tmp_path, sink, seed) as process:
            with pytest.raises(LinkError):
                await process.uploader.once()
            assert process.frozen == []
    sink.begin_term = original  # type: ignore[method-assign]  # and found again
    async with booted(tmp_path, sink, 99) as process:
        await process.uploader.once()
        assert sink.witnessed_size == process.home.log.size
        assert len(process.terms._kept.nonces) == 1


async def test_the_nonce_is_on_disk_before_it_is_committed_to(
    tmp_path: Path, sink: FakeAuditSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sink.begin_term

    async def looks(claim: Any) -> bytes:
        fresh = process.home.terms()
        await fresh._load()
        assert any(opens(nonce, claim.commitment) for nonce in fresh._kept.nonces)
        return await original(claim)

    async with booted(tmp_path, sink) as process:
        monkeypatch.setattr(sink, "begin_term", looks)
        await process.uploader.once()
        assert sink.term is not None


@attack("A40")
async def test_terms_that_are_damaged_are_refused(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.storage.state.put("audit.term.1", b"{")
        with pytest.raises(StorageError) as refused:
            await home.terms().begin()
        assert refused.value.code == "term_damaged"


# --- what a start records -----------------------------------------------------------------------


async def types(home: Home) -> list[str]:
    return [str(decode_leaf(x).type) for x in await home.database.read(_leaves)]


_leaves: Callable[[Any], list[bytes]] = lambda reader: reader.leaves(0, 99, 1 << 20)  # noqa: E731 (typed)


async def test_silence_is_a_gap(tmp_path: Path) -> None:
    clock = FakeClock()
    async with Home(tmp_path, clock=clock) as home:
        await home.boot(heartbeat=60)
    for seconds, gap in ((119, False), (121, True)):
        await clock.advance(seconds)
        async with Home(tmp_path, clock=clock) as home:
            await home.boot(heartbeat=60)
            leaves = await home.database.read(_leaves)
            assert (decode_leaf(leaves[-2]).type == "GAP") is gap
    assert decode_leaf(leaves[-2]).body["seconds"] == "121"


async def test_a_disk_that_was_full_is_on_record(tmp_path: Path) -> None:
    from exclave_agent.errors import StorageFull
    from exclave_agent.ports import LeafDraft

    async with Home(tmp_path) as home:
        await home.storage.writer.run(lambda c: c.execute("PRAGMA max_page_count = 1"))
        big = LeafDraft("INCIDENT", {"text": "x" * 60_000})
        for _ in range(2):
            with pytest.raises(StorageFull):
                await home.log.append(big)
        await home.storage.writer.run(lambda c: c.execute("PRAGMA max_page_count = 1000000"))
        await home.log.append(intent("one"))
        last = decode_leaf((await home.database.read(_leaves))[-1])
        assert last.type == "RECOVERY"
        assert (last.body["reason"], last.body["refused"]) == ("storage", "2")
        await home.log.append(intent("two"))
        assert (await types(home))[-2:] == ["RECOVERY", "INTENT"]


async def test_a_checkpoint_of_a_former_term_still_verifies(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    async with booted(tmp_path, sink, 1) as process:
        await process.uploader.once()
        old = sink.notes[-1]
    async with booted(tmp_path, sink, 2) as process:
        await process.uploader.once()
        assert open_checkpoint(old, KEY).size < open_checkpoint(sink.notes[-1], KEY).size


async def test_whoever_is_stopped_hands_its_own_head_in(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    home = tmp_path / "home"
    async with booted(home, sink, 1) as process:
        await process.uploader.once()
        backup = copy(home, "backup")
        await process.home.log.append(intent("later"))
        await process.uploader.once()
    handed: list[bytes] = []
    original = sink.begin_term

    async def keeps(claim: Any) -> bytes:
        handed.append(claim.note)
        return await original(claim)

    sink.begin_term = keeps  # type: ignore[method-assign]  # the evidence that it would keep
    async with booted(backup, sink, 2) as process:
        await process.caught()
        (note,) = handed
        assert open_signed(note, KEY).certificate == process.terms.key.certificate
        assert open_checkpoint(note, KEY).size == process.home.log.size


# --- former epochs ------------------------------------------------------------------------------


async def test_what_is_erased_is_erased_in_former_epochs_too(tmp_path: Path) -> None:
    origin = ORIGIN.removesuffix("1") + "2"
    async with Home(tmp_path) as home:
        for number in range(3):
            await home.log.append(intent(f"old {number}", subject="ada"))
        await home.log.append(intent("other", subject="bob"))
    async with Home(tmp_path, epoch=2) as home:
        assert home.log.store.origin == origin
        before = Epoch(2, ORIGIN, 4, bytes(32), b"", "test", 5)
        await home.boot(epoch=before)
        assert (await types(home))[:5] == ["GENESIS", "EPOCH", "GAP", "RECOVERY", "BOOT"]
        await home.log.append(intent("new", subject="ada"))
        storage = home.storage
        eraser = Eraser(home.log, storage.subjects, storage.truncate, home.clock, SequentialIds())
        done = await eraser.erase("ada")
        assert done.leaves == 4
        last = decode_leaf((await home.database.read(_leaves))[-1])
        assert last.body["former"] == {ORIGIN: "3"}
        assert last.body["leaves"] == "1"
    rows = execute(state(tmp_path), "SELECT count(*) FROM leaf WHERE sealed IS NOT NULL")
    assert rows == [(1,)]


async def test_a_crash_while_an_epoch_opens_goes_on_where_it_stopped(tmp_path: Path) -> None:
    before = Epoch(2, ORIGIN, 4, bytes(32), b"note", "test", 9)
    async with Home(tmp_path, epoch=2) as home:
        await home.log.append(drafts.epoch(before))
    async with Home(tmp_path, epoch=2) as home:
        await home.boot(epoch=before)
        assert await types(home) == ["GENESIS", "EPOCH", "GAP", "RECOVERY", "BOOT"]
        gap = decode_leaf((await home.database.read(_leaves))[2])
        assert (gap.body["first"], gap.body["leaves"]) == ("4", "5")


async def test_a_term_that_this_home_never_began_is_proof_whatever_it_signs(
    tmp_path: Path, sink: FakeAuditSink
) -> None:
    """Even over our own tree: the log's key certified it, and we did not ask for that."""
    async with booted(tmp_path, sink) as process:
        await process.uploader.once()
        head = await process.home.database.head()
        note = sign_checkpoint(Checkpoint(ORIGIN, head.size, head.root), signing_key(term=9))
        await process.uploader._report(
            AuditDiverged("fenced", code="fenced", evidence=note, note=note)
        )
        assert [found.code for found in process.frozen] == ["fenced"]
