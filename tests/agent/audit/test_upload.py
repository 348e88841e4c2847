"""The upload: everything arrives, once, across outages; a lying coordinator is caught."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.epoch import Frost
from exclave_agent.audit.store import LogReader, StoredCheckpoint
from exclave_agent.audit.upload import INTERVAL, PAUSE, Uploader
from exclave_agent.errors import AuditDiverged, LinkError, StorageError
from exclave_agent.ports import AuditHead
from exclave_protocol.checkpoint import Checkpoint, cosign, open_checkpoint, sign_checkpoint
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.note import add_signature, open_note, split_note
from exclave_protocol.tree import MemoryTree, leaf_hash
from exclave_testing.audit import ORIGIN, FakeAuditSink, signing_key, witness_key
from exclave_testing.clock import FakeClock
from exclave_testing.homes import KEY, Home, execute, intent, state

WITNESS = witness_key()


@dataclass
class Setup:
    home: Home
    clock: FakeClock
    sink: FakeAuditSink
    uploader: Uploader
    frozen: list[str] = field(default_factory=list)
    """Codes for which the log was frozen."""

    async def add(self, count: int) -> None:
        await asyncio.gather(*(self.home.log.append(intent(f"d{n}")) for n in range(count)))

    async def leaves(self) -> list[bytes]:
        return await self.home.database.read(lambda r: r.leaves(0, 1 << 20, 1 << 30))

    async def incidents(self) -> list[str]:
        decoded = map(decode_leaf, await self.leaves())
        return [str(leaf.body["code"]) for leaf in decoded if leaf.type == "INCIDENT"]

    async def cosigned(self) -> StoredCheckpoint | None:
        def newest(reader: LogReader) -> StoredCheckpoint | None:
            return reader.checkpoint(cosigned=True)

        return await self.home.database.read(newest)

    async def another(self) -> Uploader:
        """As after a restart."""
        terms = self.home.terms()
        await terms.begin()

        async def freeze(found: Frost) -> None:
            self.frozen.append(found.code)

        return Uploader(
            self.home.log,
            Checkpointer(self.home.database, terms),
            self.sink,
            terms=terms,
            witness=WITNESS.verify_key,
            freeze=freeze,
            clock=self.clock,
            rng=self.home.rng,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let real threads work until `condition`; virtual time stands still."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def asked_again(self) -> None:
        """Let the longest backoff pass, and the coordinator be asked at least once more."""
        before = self.sink.calls.count("head")
        await self.clock.until_sleepers(2)
        await self.clock.advance(300.0)
        await self.until(lambda: self.sink.calls.count("head") > before)
        await self.clock.until_sleepers(2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.uploader.run())
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with Home(tmp_path) as home:
        assert isinstance(home.clock, FakeClock)
        made = Setup(home, home.clock, FakeAuditSink(KEY), None)  # type: ignore[arg-type]  # next line
        made.uploader = await made.another()
        yield made


async def test_everything_arrives_and_is_cosigned(setup: Setup) -> None:
    await setup.add(2500)
    await setup.uploader.once()
    assert setup.sink.leaves == await setup.leaves()
    stored = await setup.cosigned()
    assert stored is not None
    assert stored.size == 2501
    opened = open_note(stored.note, [KEY, WITNESS.verify_key])
    assert len(opened.verified) == 3
    assert open_checkpoint(stored.note, KEY).root == setup.sink.tree.root()
    assert setup.uploader.status.witnessed == 2501


async def test_rounds_prove_consistency_from_one_to_the_next(setup: Setup) -> None:
    for count in (1, 3, 0, 300, 7):
        await setup.add(count)
        await setup.uploader.once()
        assert setup.sink.witnessed_size == len(setup.sink.leaves) == setup.home.log.size
    assert setup.sink.calls.count("witness") == 4  # nothing new, nothing to sign
    assert setup.sink.calls.count("head") == 1


async def test_a_restart_goes_on_where_the_coordinator_stands(setup: Setup) -> None:
    await setup.add(5)
    await setup.uploader.once()
    await setup.add(5)
    setup.sink.calls.clear()
    await (await setup.another()).once()
    assert setup.sink.calls == ["head", "begin_term", "append", "witness"]
    assert setup.sink.leaves == await setup.leaves()


async def test_a_lost_answer_is_made_good(setup: Setup) -> None:
    """The coordinator stored and cosigned, but its answers never came."""
    await setup.add(5)
    await setup.uploader.once()
    await setup.add(5)
    original = setup.sink.witness

    async def lost(*asked: Any) -> bytes:
        await original(*asked)
        raise LinkError("the connection broke", code="unreachable")

    setup.sink.witness = lost  # type: ignore[method-assign]  # the answer never comes
    with pytest.raises(LinkError):
        await setup.uploader.once()
    setup.sink.witness = original  # type: ignore[method-assign]  # and now it does
    await setup.add(1)
    with pytest.raises(LinkError) as refused:
        await setup.uploader.once()
    assert refused.value.code == "witness_stale"
    setup.uploader._failed("witness_stale")
    await setup.uploader.once()
    assert setup.sink.witnessed_size == 12


async def test_an_outage_is_waited_out_with_backoff(setup: Setup) -> None:
    await setup.add(3)
    setup.sink.failure = LinkError("the coordinator cannot be reached", code="unreachable")
    async with setup.running():
        for _ in range(12):
            await setup.asked_again()
            assert setup.uploader.status.error == "unreachable"
        setup.sink.failure = None
        await setup.clock.advance(300.0)
        await setup.until(lambda: setup.uploader.status.witnessed == 4)
        assert setup.uploader.status.error == ""


async def test_new_leaves_wake_the_uploader(setup: Setup) -> None:
    async with setup.running():
        await setup.until(lambda: setup.uploader.status.witnessed == 1)
        await setup.clock.until_sleepers(2)
        await setup.clock.advance(PAUSE)
        await setup.add(4)
        await setup.until(lambda: setup.uploader.status.witnessed == 5)


async def test_the_interval_asks_even_when_nothing_is_new(setup: Setup) -> None:
    async with setup.running():
        await setup.until(lambda: setup.uploader.status.witnessed == 1)
        await setup.clock.until_sleepers(2)
        await setup.clock.advance(PAUSE)
        await setup.clock.advance(INTERVAL)
        await setup.until(lambda: setup.sink.calls.count("head") == 2)
        assert setup.sink.calls.count("witness") == 1


async def test_leaves_that_come_in_during_the_signature_are_uploaded_first(setup: Setup) -> None:
    await setup.add(2)
    original = setup.sink.append

    async def slow(epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int) -> int:
        if first_seq == 0:
            await setup.home.log.append(intent("meanwhile"))
        return await original(epoch, first_seq, leaves, term=term)

    setup.sink.append = slow  # type: ignore[method-assign]  # the coordinator is slow
    await setup.uploader.once()
    assert setup.sink.witnessed_size == 4


# --- a coordinator that lies --------------------------------------------------------------


def forged_head(size: int, *, root: bytes, seed: bytes = b"a" * 32) -> AuditHead:
    note = sign_checkpoint(Checkpoint(ORIGIN, size, root), signing_key(seed=seed))
    text, _ = split_note(note)
    return AuditHead(size, size, add_signature(note, cosign(text, WITNESS, 1)))


async def honest_head(setup: Setup, size: int) -> AuditHead:
    tree = MemoryTree(map(leaf_hash, await setup.leaves()))
    return forged_head(size, root=tree.root(size))


async def caught(setup: Setup) -> AuditDiverged:
    with pytest.raises(AuditDiverged) as refused:
        await setup.uploader.once()
    return refused.value


async def test_more_leaves_than_we_wrote(setup: Setup) -> None:
    setup.sink.head_lie = AuditHead(99, 0, b"")
    assert (await caught(setup)).code == "head_ahead"


async def test_an_append_that_reports_more_than_we_wrote(setup: Setup) -> None:
    setup.sink.size_lie = 7
    assert (await caught(setup)).code == "head_ahead"


async def test_an_append_that_reports_less_is_an_outage(setup: Setup) -> None:
    setup.sink.size_lie = -1
    with pytest.raises(LinkError) as refused:
        await setup.uploader.once()
    assert refused.value.code == "upload_short"
    assert not isinstance(refused.value, AuditDiverged)


async def test_a_root_that_is_not_ours(setup: Setup) -> None:
    setup.sink.head_lie = forged_head(1, root=bytes(32))
    assert (await caught(setup)).code == "head_forked"


async def test_a_checkpoint_that_we_never_signed(setup: Setup) -> None:
    setup.sink.head_lie = forged_head(1, root=bytes(32), seed=b"x" * 32)
    assert (await caught(setup)).code == "head_foreign"


async def test_a_checkpoint_that_the_witness_never_cosigned(setup: Setup) -> None:
    honest = await honest_head(setup, 1)
    text, (ours, *_) = split_note(honest.checkpoint)
    setup.sink.head_lie = AuditHead(1, 1, text.encode() + b"\n" + ours.line())
    assert (await caught(setup)).code == "head_foreign"


async def test_sizes_that_contradict_the_checkpoint(setup: Setup) -> None:
    await setup.add(3)
    honest = await honest_head(setup, 1)
    setup.sink.head_lie = AuditHead(4, 3, honest.checkpoint)
    assert (await caught(setup)).code == "head_foreign"


@pytest.mark.parametrize("kept", [0, 2])
async def test_a_coordinator_that_forgot_is_on_record_and_gets_the_rest_again(
    setup: Setup, kept: int
) -> None:
    """As after a restore from a backup: nothing is lost, and nothing is forgiven in silence."""
    await setup.add(3)
    await setup.uploader.once()
    honest = await honest_head(setup, kept) if kept else AuditHead(0, 0, b"")
    setup.sink.restore(kept, honest)
    setup.uploader = await setup.another()
    async with setup.running():
        await setup.until(lambda: setup.sink.witnessed_size == setup.home.log.size)
        assert await setup.incidents() == ["head_rolled_back"]
    assert setup.sink.leaves == await setup.leaves()
    assert setup.uploader.status.error == ""


async def test_a_cosignature_by_another_key(setup: Setup) -> None:
    setup.sink.cosigner = witness_key(seed=b"y" * 32)
    assert (await caught(setup)).code == "cosignature_invalid"
    assert await setup.cosigned() is None


@pytest.mark.parametrize("code", ["leaf_conflict", "leaf_invalid", "witness_inconsistent"])
async def test_a_coordinator_with_another_history(setup: Setup, code: str) -> None:
    setup.sink.failure = LinkError("another leaf is stored at seq 0", code=code)
    setup.uploader._known = True
    assert (await caught(setup)).code == code


async def test_a_lie_is_recorded_once_and_the_agent_goes_on(setup: Setup) -> None:
    setup.sink.head_lie = AuditHead(99, 0, b"")
    async with setup.running():
        for _ in range(3):
            await setup.asked_again()
        await setup.until(lambda: setup.uploader.status.error == "head_ahead")
        assert await setup.incidents() == ["head_ahead"]
        await setup.home.log.append(intent("still serving"))
        setup.sink.head_lie = None
        await setup.clock.advance(300.0)
        await setup.until(lambda: setup.uploader.status.witnessed == setup.home.log.size)
    ((digest, data),) = execute(state(setup.home.path), "SELECT digest, data FROM evidence")
    assert isinstance(data, bytes)
    assert data.startswith(b"head_ahead\n99\n0\n")
    assert digest


async def test_a_log_altered_under_a_running_agent_is_not_signed_away(setup: Setup) -> None:
    await setup.add(20)
    await setup.uploader.once()
    await setup.add(20)
    forged = b"\x01" * 32
    execute(
        state(setup.home.path),
        "UPDATE leaf SET hash = ? WHERE id & 0xFFFFFFFFFF = 30",
        [forged],
    )
    with pytest.raises(StorageError) as refused:
        await setup.uploader.once()
    assert refused.value.code == "log_altered"
    assert setup.sink.witnessed_size == 21
