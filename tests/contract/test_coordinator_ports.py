"""What every Artifacts store and every Clock of the coordinator must do, fakes included."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_coordinator.errors import Invalid, NotFound
from exclave_coordinator.ports import Artifacts, Clock, Ids, Rng
from exclave_coordinator.storage.artifacts import ObjectArtifacts
from exclave_coordinator.system import SystemClock, SystemIds, SystemRng
from exclave_protocol.wire import CHUNK
from exclave_testing.coordinator import ShiftedClock


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """An empty store."""
    (tmp_path / "artifacts").mkdir()
    return ObjectArtifacts(tmp_path / "artifacts")


async def _pieces(data: bytes, size: int = CHUNK) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, CHUNK, 5 * CHUNK + 3])
async def test_what_is_put_is_read_back(artifacts: Artifacts, size: int) -> None:
    data = bytes(size)
    assert await artifacts.length("acme", _sha(data)) is None
    for _ in range(2):
        await artifacts.put("acme", _sha(data), size, _pieces(data))
    assert await artifacts.length("acme", _sha(data)) == size
    assert await artifacts.length("other", _sha(data)) is None
    pieces = [p async for p in artifacts.read("acme", _sha(data), 0, size)]
    assert b"".join(pieces) == data
    assert all(len(p) <= CHUNK for p in pieces)


async def test_ranges(artifacts: Artifacts) -> None:
    data = bytes(range(256)) * 10_000
    await artifacts.put("acme", _sha(data), len(data), _pieces(data))
    for begin, end in ((0, 1), (1000, 2_000_000), (len(data) - 1, len(data)), (5, 5)):
        got = b"".join([p async for p in artifacts.read("acme", _sha(data), begin, end)])
        assert got == data[begin:end]


@pytest.mark.parametrize("length", [0, 9, 11])
async def test_wrong_length_or_digest_is_never_visible(artifacts: Artifacts, length: int) -> None:
    data = b"0123456789"
    with pytest.raises(Invalid):
        await artifacts.put("acme", _sha(data), length, _pieces(data))
    with pytest.raises(Invalid):
        await artifacts.put("acme", _sha(b"other"), 10, _pieces(data))
    for digest in (_sha(data), _sha(b"other")):
        assert await artifacts.length("acme", digest) is None
        with pytest.raises(NotFound):
            await anext(aiter(artifacts.read("acme", digest, 0, 1)))


async def test_an_interrupted_put_is_never_visible(artifacts: Artifacts) -> None:
    data = bytes(6 * CHUNK)

    async def breaks() -> AsyncIterator[bytes]:
        yield data[: 5 * CHUNK]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await artifacts.put("acme", _sha(data), len(data), breaks())
    assert await artifacts.length("acme", _sha(data)) is None


@pytest.mark.parametrize(("tenant", "digest"), [("..", "a" * 64), ("acme", "../../x")])
async def test_names_cannot_leave_the_store(artifacts: Artifacts, tenant: str, digest: str) -> None:
    with pytest.raises(Invalid):
        await artifacts.length(tenant, digest)


@pytest.mark.parametrize("clock", [SystemClock(), ShiftedClock()])
async def test_clocks(clock: Clock) -> None:
    assert abs(clock.now() - time.time()) < 5
    assert abs(clock.now_ns() / 1e9 - clock.now()) < 5
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009


def test_chance_and_names() -> None:
    rng: Rng = SystemRng()
    ids: Ids = SystemIds()
    assert len(rng.token(32)) == 32
    assert rng.token(32) != rng.token(32)
    assert all(1 <= rng.uniform(1, 2) < 2 for _ in range(100))
    made = {ids.new() for _ in range(100)}
    assert len(made) == 100
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in made)
