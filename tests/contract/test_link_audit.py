"""What every AuditSink keeps: the in-memory coordinator, and the same one behind gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from exclave_agent.errors import AuditDiverged, LinkError
from exclave_agent.identity import IdentityStore, join
from exclave_agent.link.audit import GrpcAudit
from exclave_agent.link.channel import Channels
from exclave_agent.ports import AuditSink, LeafDraft, TermClaim
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.note import TermKey, sign
from exclave_protocol.term import commitment
from exclave_protocol.tree import MemoryTree, consistency_proof, leaf_hash
from exclave_protocol.wire import MAX_BATCH_LEAVES
from exclave_testing.audit import ORIGIN, FakeAuditLog, FakeAuditSink, signing_key
from exclave_testing.coordinator_fake import FakeCoordinator
from exclave_testing.desk import Desk

KEY = signing_key()


@dataclass
class World:
    sink: AuditSink
    backing: FakeAuditSink
    log: FakeAuditLog

    def tree(self, size: int) -> MemoryTree:
        tree = MemoryTree()
        for leaf in self.log.leaves[:size]:
            tree.append(leaf_hash(leaf))
        return tree

    def note(self, size: int, root: bytes | None = None) -> bytes:
        text = Checkpoint(ORIGIN, size, root or self.tree(size).root(size)).text()
        return sign(text, [KEY])


@pytest.fixture(params=["fake", "grpc"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    backing, log = FakeAuditSink(KEY.verify_key), FakeAuditLog()
    for number in range(4):
        await log.append(LeafDraft("HEARTBEAT", {"n": str(number)}))
    if request.param == "fake":
        yield World(backing, backing, log)
        return
    coordinator = FakeCoordinator(Desk(time.time), sink=backing)
    await coordinator.start()
    await join(tmp_path, coordinator.desk.token, coordinator.desk)
    channels = Channels(IdentityStore(tmp_path))
    yield World(GrpcAudit(channels), backing, log)
    await channels.close()
    await coordinator.stop()


async def code_of(world: World, first: int, leaves: list[bytes]) -> str:
    with pytest.raises(LinkError) as caught:
        await world.sink.append(1, first, leaves, term=0)
    return caught.value.code


async def test_append_and_head(world: World) -> None:
    assert (await world.sink.head(1)).size == 0
    assert await world.sink.append(1, 0, world.log.leaves[:3], term=0) == 3
    assert await world.sink.append(1, 1, world.log.leaves[1:], term=0) == 5  # overlap is fine
    head = await world.sink.head(1)
    assert (head.size, head.witnessed_size, head.checkpoint) == (5, 0, b"")


async def test_refused_appends(world: World) -> None:
    assert await code_of(world, 1, world.log.leaves[1:2]) == "gap"
    assert await code_of(world, 0, world.log.leaves[1:2]) == "leaf_invalid"
    await world.sink.append(1, 0, world.log.leaves[:1], term=0)
    assert await code_of(world, 0, world.log.leaves[1:2]) == "leaf_conflict"
    too_many = [b"x"] * (MAX_BATCH_LEAVES + 1)
    assert await code_of(world, 1, too_many) == "batch_too_large"


async def test_witness(world: World) -> None:
    await world.sink.append(1, 0, world.log.leaves, term=0)
    line = await world.sink.witness(1, 0, [], world.note(3))
    assert line.startswith("\N{EM DASH} ".encode())
    assert line.endswith(b"\n")
    head = await world.sink.head(1)
    assert head.witnessed_size == 3
    assert line in head.checkpoint


@pytest.mark.parametrize(
    ("size", "old", "root", "code"),
    [
        (3, 7, None, "witness_stale"),
        (3, 0, b"\x01" * 32, "witness_inconsistent"),
    ],
)
async def test_refused_checkpoints(
    world: World, size: int, old: int, root: bytes | None, code: str
) -> None:
    await world.sink.append(1, 0, world.log.leaves, term=0)
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, old, [], world.note(size, root))
    assert caught.value.code == code


async def test_checkpoint_before_its_leaves(world: World) -> None:
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, 0, [], world.note(3))
    assert caught.value.code == "witness_missing_leaves"


async def test_checkpoint_of_another_key(world: World) -> None:
    await world.sink.append(1, 0, world.log.leaves, term=0)
    text = Checkpoint(ORIGIN, 1, world.tree(1).root(1)).text()
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, 0, [], sign(text, [signing_key(seed=b"z" * 32)]))
    assert caught.value.code == "witness_denied"


async def test_unreachable(world: World) -> None:
    world.backing.failure = LinkError("away", code="unreachable")
    with pytest.raises(LinkError) as caught:
        await world.sink.head(1)
    assert caught.value.code == "unreachable"


# --- terms ---------------------------------------------------------------------------------


def claim(world: World, key: TermKey, *nonces: bytes, size: int = 3, old: int = 0) -> TermClaim:
    tree = world.tree(size)
    note = sign(Checkpoint(ORIGIN, size, tree.root(size)).text(), [key])
    proof = consistency_proof(old, size, tree.node) if old else []
    number = key.certificate.term
    return TermClaim(1, note, old, proof, commitment(bytes([number] * 32)), nonces, b"")


async def test_terms_follow_each_other(world: World) -> None:
    token = await world.sink.begin_term(claim(world, signing_key(term=1)))
    assert token == await world.sink.begin_term(claim(world, signing_key(term=1)))
    await world.sink.begin_term(claim(world, signing_key(term=2), bytes([1] * 32)))
    assert (await world.sink.head(1)).term == 2
    await world.sink.append(1, 0, world.log.leaves, term=2)
    text = Checkpoint(ORIGIN, 3, world.tree(3).root(3)).text()
    await world.sink.witness(1, 0, [], sign(text, [signing_key(term=2)]))


async def test_who_does_not_follow_is_told_who_holds_the_log(world: World) -> None:
    await world.sink.begin_term(claim(world, signing_key(term=1)))
    held = claim(world, signing_key(term=2), bytes([1] * 32))
    await world.sink.begin_term(held)
    with pytest.raises(AuditDiverged) as refused:
        await world.sink.begin_term(claim(world, signing_key(term=3), bytes([1] * 32)))
    assert (refused.value.code, refused.value.note) == ("fenced", held.note)
    with pytest.raises(AuditDiverged) as refused:
        await world.sink.append(1, 0, world.log.leaves, term=1)
    assert (refused.value.code, refused.value.note) == ("fenced", held.note)
    await world.sink.append(1, 0, world.log.leaves, term=2)
    with pytest.raises(AuditDiverged) as refused:
        await world.sink.witness(1, 0, [], world.note(3))
    assert (refused.value.code, refused.value.note) == ("fenced", held.note)


async def test_refused_terms(world: World) -> None:
    async def code(made: TermClaim) -> str:
        with pytest.raises(LinkError) as caught:
            await world.sink.begin_term(made)
        return caught.value.code

    good = claim(world, signing_key())
    assert await code(replace(good, epoch=2)) == "epoch_not_open"
    assert await code(replace(good, old_size=2)) == "term_stale"
    assert await code(claim(world, signing_key(seed=b"z" * 32))) == "term_denied"
    await world.sink.append(1, 0, world.log.leaves, term=0)
    fork = sign(Checkpoint(ORIGIN, 3, bytes(32)).text(), [signing_key()])
    assert await code(replace(good, note=fork)) == "term_inconsistent"
