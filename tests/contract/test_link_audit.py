"""What every AuditSink keeps: the in-memory coordinator, and the same one behind gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError
from exclave_agent.identity import IdentityStore, join
from exclave_agent.link.audit import GrpcAudit
from exclave_agent.link.channel import Channels
from exclave_agent.ports import AuditSink, LeafDraft
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.note import sign
from exclave_protocol.tree import MemoryTree, leaf_hash
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
        await world.sink.append(1, first, leaves)
    return caught.value.code


async def test_append_and_head(world: World) -> None:
    assert (await world.sink.head(1)).size == 0
    assert await world.sink.append(1, 0, world.log.leaves[:3]) == 3
    assert await world.sink.append(1, 1, world.log.leaves[1:]) == 5  # overlap is fine
    head = await world.sink.head(1)
    assert (head.size, head.witnessed_size, head.checkpoint) == (5, 0, b"")


async def test_refused_appends(world: World) -> None:
    assert await code_of(world, 1, world.log.leaves[1:2]) == "gap"
    assert await code_of(world, 0, world.log.leaves[1:2]) == "leaf_invalid"
    await world.sink.append(1, 0, world.log.leaves[:1])
    assert await code_of(world, 0, world.log.leaves[1:2]) == "leaf_conflict"
    too_many = [b"x"] * (MAX_BATCH_LEAVES + 1)
    assert await code_of(world, 1, too_many) == "batch_too_large"


async def test_witness(world: World) -> None:
    await world.sink.append(1, 0, world.log.leaves)
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
    await world.sink.append(1, 0, world.log.leaves)
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, old, [], world.note(size, root))
    assert caught.value.code == code


async def test_checkpoint_before_its_leaves(world: World) -> None:
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, 0, [], world.note(3))
    assert caught.value.code == "witness_missing_leaves"


async def test_checkpoint_of_another_key(world: World) -> None:
    await world.sink.append(1, 0, world.log.leaves)
    text = Checkpoint(ORIGIN, 1, world.tree(1).root(1)).text()
    with pytest.raises(LinkError) as caught:
        await world.sink.witness(1, 0, [], sign(text, [signing_key(seed=b"z" * 32)]))
    assert caught.value.code == "witness_denied"


async def test_unreachable(world: World) -> None:
    world.backing.failure = LinkError("away", code="unreachable")
    with pytest.raises(LinkError) as caught:
        await world.sink.head(1)
    assert caught.value.code == "unreachable"
