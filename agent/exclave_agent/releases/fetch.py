"""Fetch: targets by digest, resumed after any interruption, visible only when whole and right.

artifacts/sha256/<hex>       a verified file, never changed
artifacts/sha256/<hex>.part  its first bytes, continued by the next attempt
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from exclave_agent.disk import sync_folder
from exclave_agent.errors import LinkError, ReleaseRefused
from exclave_agent.ports import ArtifactSource, Clock, Rng
from exclave_agent.slots import Backoff
from exclave_protocol.release import ArtifactRef

RESERVE: Final = 64 << 20
"""Bytes of disk that a download leaves free: the record must still be written."""
STALLS: Final = 5
"""Attempts in a row without a single new byte before giving up."""
RETRY: Final = (0.5, 30.0)
"""Lowest and highest ceiling of the delay between attempts, seconds."""
_NAME: Final = re.compile(r"([0-9a-f]{64})(\.part)?")
_BLOCK: Final = 1 << 20

T = TypeVar("T")


class Hasher(Protocol):
    """What hashlib returns."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest so far."""
        ...


def free_space(folder: Path) -> int:
    """Bytes that an unprivileged user may still write."""
    return shutil.disk_usage(folder).free


class ArtifactStore:
    """The agent's folder of verified targets."""

    def __init__(
        self,
        folder: Path,
        source: ArtifactSource,
        *,
        clock: Clock,
        rng: Rng,
        executor: Executor,
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """`executor` does what blocks: hashing, writing, syncing."""
        self._folder = folder
        self._source = source
        self._clock = clock
        self._rng = rng
        self._executor = executor
        self._free = free
        self._locks: dict[str, asyncio.Lock] = {}

    def path(self, sha256: str) -> Path:
        """Where the verified file lies, or will."""
        return self._folder / sha256

    async def read(self, ref: ArtifactRef) -> bytes:
        """A small verified file whole; the bytes returned are the bytes that were checked.

        Raises: ReleaseRefused ("fetch_failed": not there, "tampered").
        """
        path = self.path(ref.sha256)

        def measured() -> tuple[bytes, str]:
            with path.open("rb") as file:
                data = file.read(ref.length + 1)
            return data, hashlib.sha256(data).hexdigest()

        try:
            data, digest = await self._run(measured)
        except FileNotFoundError as error:
            raise _absent(ref) from error
        if (len(data), digest) != (ref.length, ref.sha256):
            path.unlink(missing_ok=True)
            raise _altered(ref, len(data))
        return data

    async def verify(self, ref: ArtifactRef) -> None:
        """Hash a file on disk again; one that differs is removed, so that it is fetched anew.

        Raises: ReleaseRefused ("fetch_failed": not there, "tampered").
        """
        path = self.path(ref.sha256)
        try:
            length, digest = await self._run(lambda: _measure(path))
        except FileNotFoundError as error:
            raise _absent(ref) from error
        if (length, digest) != (ref.length, ref.sha256):
            path.unlink(missing_ok=True)
            raise _altered(ref, length)

    async def ensure(
        self, refs: Iterable[ArtifactRef], *, trusted: Collection[str] = frozenset()
    ) -> None:
        """Have all these files, fetching what is missing once the disk is known to suffice.

        Files whose digest is in `trusted` (in use by the active release) are not hashed again.
        Raises: ReleaseRefused (disk_full, tampered, fetch_failed), LinkError.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing: list[ArtifactRef] = []
        for ref in refs:
            if ref.sha256 in trusted and self.path(ref.sha256).exists():
                continue
            try:
                await self.verify(ref)
            except ReleaseRefused:
                missing.append(ref)
        self._preflight(missing)
        for ref in missing:
            async with self._locks.setdefault(ref.sha256, asyncio.Lock()):
                if not self.path(ref.sha256).exists():
                    await self._download(ref)

    def collect(self, keep: Collection[str]) -> int:
        """Remove every file and part whose digest is not in `keep`; returns bytes freed."""
        freed = 0
        if not self._folder.is_dir():
            return freed
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is None or match.group(1) in keep:
                continue
            lock = self._locks.get(match.group(1))
            if lock is not None and lock.locked():
                continue
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
        return freed

    def _preflight(self, missing: list[ArtifactRef]) -> None:
        needed = sum(max(0, ref.length - _size(self._part(ref))) for ref in missing)
        free = self._free(self._folder)
        if missing and needed + RESERVE > free:
            raise ReleaseRefused(
                f"the release needs {needed} more bytes and {RESERVE} in reserve; the disk has "
                f"{free} free: make room in the agent's home",
                code="disk_full",
            )

    # --- one download -------------------------------------------------------------------

    async def _download(self, ref: ArtifactRef) -> None:
        """Download from where the part ends. The part survives a broken link, and nothing else."""
        with _locked(self._part(ref)) as file:
            hasher, have = await self._run(lambda: _resume(file, ref.length))
            try:
                await self._receive(ref, file, hasher, have)
                if hasher.hexdigest() != ref.sha256:
                    raise ReleaseRefused(
                        f"{ref.path} was altered: its bytes do not have the signed digest",
                        code="tampered",
                    )
                await self._run(lambda: self._finish(file, ref))
            except OSError as error:
                # The space goes back at once: audit records have the first claim on it.
                self._part(ref).unlink(missing_ok=True)
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise ReleaseRefused(
                    f"{ref.path} could not be written ({error.strerror})",
                    code="disk_full" if full else "fetch_failed",
                ) from error
            except ReleaseRefused as error:
                if error.code == "tampered":
                    self._part(ref).unlink(missing_ok=True)
                raise

    async def _receive(self, ref: ArtifactRef, file: int, hasher: Hasher, have: int) -> None:
        """Read until all bytes are there, resuming as long as attempts bring new bytes."""
        backoff = Backoff(*RETRY)
        stalls = 0
        while have < ref.length:
            before, failure = have, None
            try:
                async for piece in self._source.read(ref.sha256, have):
                    if have + len(piece) > ref.length:
                        raise ReleaseRefused(
                            f"{ref.path} is longer than the signed {ref.length} bytes",
                            code="tampered",
                        )
                    await self._run(partial(_append, file, hasher, piece))
                    have += len(piece)
            except LinkError as error:
                failure = error
            if have > before:
                stalls = 0
                backoff.reset()
            if have < ref.length:
                stalls += 1
                if stalls >= STALLS:
                    raise failure or ReleaseRefused(
                        f"{ref.path} ends after {have} of {ref.length} bytes at the coordinator",
                        code="fetch_failed",
                    )
                await self._clock.sleep(self._rng.uniform(0, backoff.ceiling()))

    def _finish(self, file: int, ref: ArtifactRef) -> None:
        """MUST sync the bytes before the rename: a name stands for verified bytes only."""
        os.fsync(file)
        self._part(ref).replace(self.path(ref.sha256))
        sync_folder(self._folder)

    def _part(self, ref: ArtifactRef) -> Path:
        return self._folder / f"{ref.sha256}.part"

    async def _run(self, work: Callable[[], T]) -> T:
        """Run in the executor. MUST outlast it even when cancelled: its file is closed next."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def _absent(ref: ArtifactRef) -> ReleaseRefused:
    return ReleaseRefused(f"{ref.path} is not on disk", code="fetch_failed")


def _altered(ref: ArtifactRef, length: int) -> ReleaseRefused:
    return ReleaseRefused(
        f"{ref.path} on disk is not the signed file ({length} of {ref.length} bytes)",
        code="tampered",
    )


@contextmanager
def _locked(part: Path) -> Iterator[int]:
    """The part's descriptor under an exclusive lock, so that no other process writes into it."""
    handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReleaseRefused(
                "another process is downloading the same file into this home", code="fetch_failed"
            ) from error
        yield handle
    finally:
        os.close(handle)


def _resume(file: int, length: int) -> tuple[Hasher, int]:
    """Hash what an earlier attempt left, and stand at its end. Too much: begin anew."""
    if os.fstat(file).st_size > length:
        os.ftruncate(file, 0)
    hasher = hashlib.sha256()
    os.lseek(file, 0, os.SEEK_SET)
    have = 0
    while block := os.read(file, _BLOCK):
        hasher.update(block)
        have += len(block)
    return hasher, have


def _append(file: int, hasher: Hasher, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(file, view) :]
    hasher.update(piece)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
