"""Downloads that break, lie, end early or find no room."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError, ReleaseRefused
from exclave_agent.releases import fetch
from exclave_agent.releases.fetch import RESERVE, STALLS, ArtifactStore
from exclave_protocol.release import ArtifactRef
from exclave_testing.clock import FakeClock, SeededRng
from exclave_testing.tuf_repo import Source

DATA = bytes(range(256)) * 40  # 10 chunks of the fake's 1,024 bytes
SHA256 = hashlib.sha256(DATA).hexdigest()
REF = ArtifactRef(f"models/{SHA256}", SHA256, len(DATA))


class Eager(FakeClock):
    """Sleeps pass at once: retries are counted here, not timed."""

    async def sleep(self, seconds: float) -> None:
        self.step(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def source() -> Source:
    return Source(targets={SHA256: DATA})


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path, source: Source, executor: ThreadPoolExecutor) -> ArtifactStore:
    return ArtifactStore(
        tmp_path / "sha256", source, clock=Eager(), rng=SeededRng(), executor=executor
    )


def part(store: ArtifactStore) -> Path:
    path = store.path(SHA256)
    return path.with_name(path.name + ".part")


async def code_of(store: ArtifactStore) -> str:
    with pytest.raises(ReleaseRefused) as caught:
        await store.ensure([REF])
    return caught.value.code


async def test_fetched_once(store: ArtifactStore, source: Source) -> None:
    await store.ensure([REF])
    await store.ensure([REF])
    assert store.path(SHA256).read_bytes() == DATA
    assert source.reads == [(SHA256, 0)]
    assert not part(store).exists()


async def test_a_broken_link_is_resumed_where_it_broke(
    store: ArtifactStore, source: Source
) -> None:
    source.break_after = 3000
    await store.ensure([REF])
    assert source.reads == [(SHA256, 0), (SHA256, 3000)]
    assert source.sent == len(DATA)


async def test_a_restarted_agent_resumes_and_hashes_what_it_has(
    store: ArtifactStore, source: Source
) -> None:
    store.path(SHA256).parent.mkdir()
    part(store).write_bytes(DATA[:5000])
    await store.ensure([REF])
    assert source.reads == [(SHA256, 5000)]
    assert source.sent == len(DATA) - 5000
    assert store.path(SHA256).read_bytes() == DATA


async def test_a_rotten_part_is_found_and_thrown_away(store: ArtifactStore, source: Source) -> None:
    store.path(SHA256).parent.mkdir()
    part(store).write_bytes(b"x" * 5000)
    assert await code_of(store) == "tampered"
    assert not part(store).exists()
    assert not store.path(SHA256).exists()
    await store.ensure([REF])
    assert store.path(SHA256).read_bytes() == DATA


async def test_a_part_longer_than_the_file_begins_anew(
    store: ArtifactStore, source: Source
) -> None:
    store.path(SHA256).parent.mkdir()
    part(store).write_bytes(DATA + b"more")
    await store.ensure([REF])
    assert source.reads == [(SHA256, 0)]


async def test_altered_bytes_are_refused(store: ArtifactStore, source: Source) -> None:
    source.targets[SHA256] = DATA[:-1] + b"!"
    assert await code_of(store) == "tampered"
    assert list(store.path(SHA256).parent.iterdir()) == []


async def test_more_bytes_than_signed_are_refused(store: ArtifactStore, source: Source) -> None:
    source.targets[SHA256] = DATA + b"more"
    assert await code_of(store) == "tampered"
    assert list(store.path(SHA256).parent.iterdir()) == []


async def test_an_endless_file_is_cut_off_at_its_signed_length(
    store: ArtifactStore, source: Source
) -> None:
    source.targets[SHA256] = DATA * 100
    assert await code_of(store) == "tampered"
    assert source.sent <= len(DATA) + source.chunk


async def test_a_link_that_breaks_again_and_again_still_gets_there(
    store: ArtifactStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving up is for links that bring nothing: this one brings a little each time."""
    whole = source.read

    def flaky(sha256: str, offset: int) -> AsyncIterator[bytes]:
        source.break_after = 1000
        return whole(sha256, offset)

    monkeypatch.setattr(source, "read", flaky)
    await store.ensure([REF])
    assert len(source.reads) > 2 * STALLS
    assert store.path(SHA256).read_bytes() == DATA


async def test_truncated_model_file(store: ArtifactStore, source: Source) -> None:
    """The coordinator holds fewer bytes than were signed: nothing is activated, nothing lost."""
    source.targets[SHA256] = DATA[:4000]
    assert await code_of(store) == "fetch_failed"
    assert part(store).stat().st_size == 4000
    assert len(source.reads) == STALLS
    source.targets[SHA256] = DATA
    await store.ensure([REF])
    assert source.reads[-1] == (SHA256, 4000)


async def test_a_link_that_stays_down_is_given_up_for_now(
    store: ArtifactStore, source: Source
) -> None:
    source.offline = True
    with pytest.raises(LinkError):
        await store.ensure([REF])
    assert len(source.reads) == STALLS


async def test_no_room_is_known_before_the_first_byte(
    tmp_path: Path, source: Source, executor: ThreadPoolExecutor
) -> None:
    room = RESERVE + len(DATA) - 1
    store = ArtifactStore(
        tmp_path / "sha256",
        source,
        clock=Eager(),
        rng=SeededRng(),
        executor=executor,
        free=lambda folder: room,
    )
    assert await code_of(store) == "disk_full"
    assert source.reads == []
    # What is there already need not fit again.
    part(store).write_bytes(DATA[:1])
    await store.ensure([REF])


async def test_disk_that_fills_up_during_the_download_gets_its_space_back(
    store: ArtifactStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", full)
    assert await code_of(store) == "disk_full"
    monkeypatch.undo()
    assert list(store.path(SHA256).parent.iterdir()) == []


async def test_another_process_holds_the_part(store: ArtifactStore, source: Source) -> None:
    store.path(SHA256).parent.mkdir()
    with part(store).open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert await code_of(store) == "fetch_failed"
    assert source.reads == []


async def test_two_at_once_download_once(store: ArtifactStore, source: Source) -> None:
    await asyncio.gather(store.ensure([REF]), store.ensure([REF]))
    assert source.reads == [(SHA256, 0)]


async def test_cancelled_download_keeps_its_part(store: ArtifactStore, source: Source) -> None:
    task = asyncio.create_task(store.ensure([REF]))
    async with asyncio.timeout(10):
        while source.sent < 2048:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    have = part(store).stat().st_size
    assert 0 < have < len(DATA)
    await store.ensure([REF])
    assert source.reads[-1] == (SHA256, have)


async def test_a_verified_file_that_rots_is_found_again(
    store: ArtifactStore, source: Source
) -> None:
    await store.ensure([REF])
    store.path(SHA256).write_bytes(b"rot")
    with pytest.raises(ReleaseRefused) as caught:
        await store.read(REF)
    assert caught.value.code == "tampered"
    await store.ensure([REF])
    assert await store.read(REF) == DATA


async def test_what_is_read_is_what_was_checked(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.ensure([REF])
    measure = fetch._measure

    def then_swapped(path: Path) -> tuple[int, str]:
        # Whoever swaps the file right after its check must gain nothing by it.
        found = measure(path)
        path.write_bytes(b"evil")
        return found

    monkeypatch.setattr(fetch, "_measure", then_swapped)
    assert await store.read(REF) == DATA


async def test_collect_spares_what_is_kept(store: ArtifactStore, source: Source) -> None:
    await store.ensure([REF])
    folder = store.path(SHA256).parent
    for name in ("0" * 64, "1" * 64 + ".part"):
        (folder / name).write_bytes(b"12345")
    (folder / "note.txt").write_text("not ours to remove")
    assert store.collect({SHA256}) == 10
    assert sorted(p.name for p in folder.iterdir()) == sorted([SHA256, "note.txt"])


async def test_empty_file(store: ArtifactStore) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    await store.ensure([ArtifactRef("models/empty", empty, 0)])
    assert store.path(empty).read_bytes() == b""


class Slow:
    """Hands out one piece and then never another."""

    async def metadata(self, name: str) -> bytes | None:
        return None

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        yield DATA[:10]
        await asyncio.Event().wait()


async def test_a_download_in_progress_is_not_collected(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    store = ArtifactStore(
        tmp_path / "sha256", Slow(), clock=Eager(), rng=SeededRng(), executor=executor
    )
    task = asyncio.create_task(store.ensure([REF]))
    async with asyncio.timeout(10):
        while not (part(store).exists() and part(store).stat().st_size == 10):
            await asyncio.sleep(0.001)
    assert store.collect(set()) == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
