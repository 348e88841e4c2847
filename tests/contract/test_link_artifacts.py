"""What every ArtifactSource keeps: the tests' own, and the real one over mutual TLS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError
from exclave_agent.identity import IdentityStore, join
from exclave_agent.link.artifacts import GrpcArtifacts
from exclave_agent.link.channel import Channels
from exclave_agent.ports import ArtifactSource
from exclave_testing.coordinator_fake import FakeCoordinator
from exclave_testing.desk import Desk
from exclave_testing.tuf_repo import Source

NAME = "a" * 64
DATA = bytes(range(256)) * 20


@pytest.fixture
def backing() -> Source:
    return Source({"timestamp.json": b"{}"}, {NAME: DATA})


@pytest.fixture(params=["fake", "grpc"])
async def source(
    request: pytest.FixtureRequest, backing: Source, tmp_path: Path
) -> AsyncIterator[ArtifactSource]:
    if request.param == "fake":
        yield backing
        return
    coordinator = FakeCoordinator(Desk(time.time), backing)
    await coordinator.start()
    await join(tmp_path, coordinator.desk.token, coordinator.desk)
    channels = Channels(IdentityStore(tmp_path))
    yield GrpcArtifacts(channels)
    await channels.close()
    await coordinator.stop()


async def test_metadata(source: ArtifactSource) -> None:
    assert await source.metadata("timestamp.json") == b"{}"


async def test_missing_metadata_is_none(source: ArtifactSource) -> None:
    assert await source.metadata("2.root.json") is None


@pytest.mark.parametrize("offset", [0, 1, 1024, len(DATA) - 1, len(DATA)])
async def test_bytes_from_an_offset(source: ArtifactSource, offset: int) -> None:
    assert b"".join([piece async for piece in source.read(NAME, offset)]) == DATA[offset:]


async def test_missing_target(source: ArtifactSource) -> None:
    with pytest.raises(LinkError) as caught:
        await anext(aiter(source.read("b" * 64, 0)))
    assert caught.value.code == "not_found"


async def test_what_came_before_the_link_broke_is_kept(
    source: ArtifactSource, backing: Source
) -> None:
    backing.break_after = 3000
    got = bytearray()

    async def receive() -> None:
        async for piece in source.read(NAME, 0):
            got.extend(piece)

    with pytest.raises(LinkError) as caught:
        await receive()
    assert caught.value.code == "unreachable"
    assert DATA.startswith(bytes(got))


async def test_unreachable(source: ArtifactSource, backing: Source) -> None:
    backing.offline = True
    with pytest.raises(LinkError) as caught:
        await source.metadata("timestamp.json")
    assert caught.value.code == "unreachable"
