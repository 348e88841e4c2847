"""Targets' bytes through obstore: `<tenant>/sha256/<hex>` in a folder."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path, PurePosixPath

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from exclave_coordinator.errors import Invalid, NotFound, StorageError, StorageFull
from exclave_protocol.wire import CHUNK

_SAFE = re.compile(r"[a-z0-9-]{1,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ObjectArtifacts:
    """`ports.Artifacts` over a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = LocalStore(prefix=folder)

    def sweep(self) -> int:
        """Remove what uploads left behind that a crash broke off; returns bytes freed. Blocks.

        Call before anything is served, as an upload under way looks the same.
        """
        freed = 0
        for path in self._folder.glob("*/sha256/*"):
            if not _DIGEST.fullmatch(path.name):
                freed += path.stat().st_size
                path.unlink()
        return freed

    async def length(self, tenant: str, sha256: str) -> int | None:
        """Bytes; None when it is not there."""
        try:
            return (await obstore.head_async(self._store, _path(tenant, sha256)))["size"]
        except FileNotFoundError:
            return None

    async def put(
        self, tenant: str, sha256: str, length: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """A target is visible here only when it is whole, right and on disk.

        MUST: the digest and the length are checked before the store completes the object,
        and the file and its folder are fsynced before this returns.
        """
        if length == 0:
            await self._put_empty(tenant, sha256, chunks)
        else:
            await self._stream(_path(tenant, sha256), _checked(sha256, length, chunks))
        await asyncio.to_thread(_sync, self._folder, _path(tenant, sha256))

    async def read(self, tenant: str, sha256: str, begin: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [begin, end) in pieces of at most 1 MiB."""
        try:
            while begin < end:
                stop = min(end, begin + CHUNK)
                piece = await obstore.get_range_async(
                    self._store, _path(tenant, sha256), start=begin, end=stop
                )
                yield bytes(piece)
                begin = stop
        except FileNotFoundError as error:
            raise NotFound("no target with this sha256") from error
        except (BaseError, OSError) as error:
            raise _failure(error) from error

    async def _put_empty(self, tenant: str, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        async for _ in _checked(sha256, 0, chunks):
            continue
        await obstore.put_async(self._store, _path(tenant, sha256), b"")

    async def _stream(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        # The writer completes the object only in close(); dropped before, it leaves nothing.
        writer = obstore.open_writer_async(self._store, path, buffer_size=4 * CHUNK)
        async for chunk in chunks:
            await _storing(writer.write(chunk))
        await _storing(writer.close())


async def _storing(step: Awaitable[object]) -> None:
    """A step of the store itself: its failures are ours, the source's are not."""
    try:
        await step
    except (BaseError, OSError) as error:
        raise _failure(error) from error


async def _checked(sha256: str, length: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    digest, seen = hashlib.sha256(), 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > length:
            raise Invalid(f"data: more than the header's length of {length} bytes", code="length")
        digest.update(chunk)
        yield chunk
    if seen != length:
        raise Invalid(f"data: {seen} bytes where the header says {length}", code="length")
    if digest.hexdigest() != sha256:
        raise Invalid("data: its SHA-256 is not the header's; upload it again", code="digest")


def _path(tenant: str, sha256: str) -> str:
    # Both become path segments: nothing but names and digests may.
    if not _SAFE.fullmatch(tenant) or not _DIGEST.fullmatch(sha256):
        raise Invalid("sha256: not 64 lower-case hex digits")
    return f"{tenant}/sha256/{sha256}"


def _sync(folder: Path, path: str) -> None:
    """The file and every folder on the way to it: a tenant's first upload makes two."""
    file = folder / path
    for place in (file, *(folder / parent for parent in PurePosixPath(path).parents)):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _failure(error: Exception) -> StorageError:
    # The store wraps the operating system's error in text only.
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
        return StorageFull("the disk is full; the upload was dropped")
    return StorageError(f"the artifact store failed ({type(error).__name__})")
