"""One TUF client cycle over the coordinator's metadata; runs in a thread, imports tuf.

`tuf.ngclient.Updater` does the client workflow. Its own expiry checks read the operating
system's clock, and version 7 has no parameter for another: so once it is done, all four files
are judged again at the agent's trusted time, which never lies before the system's clock. The
later of the two clocks decides, and only tuf's public API is used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from exclave_agent.errors import LinkError, ReleaseRefused
from exclave_agent.ports import ArtifactSource
from exclave_protocol.wire import MAX_METADATA

_BASE: Final = "tuf://coordinator/"
_ROLES: Final = ("root", "timestamp", "snapshot", "targets")

# No delegations: the tenant's people sign everything in the top-level targets. After a
# refresh, looking up a target therefore needs no download.
_CONFIG: Final = UpdaterConfig(max_delegations=0, targets_max_length=MAX_METADATA)


@dataclass(frozen=True, slots=True)
class Target:
    """One file that the tenant's signed metadata vouches for."""

    path: str
    sha256: str
    length: int


class TrustedTargets:
    """The tenant's verified metadata after one cycle."""

    def __init__(self, updater: Updater, root_version: int, targets_version: int) -> None:
        self._updater = updater
        self.root_version = root_version
        self.targets_version = targets_version

    def find(self, path: str) -> Target | None:
        """The target of that path; None when the signed metadata does not name it."""
        info = self._updater.get_targetinfo(path)
        if info is None or "sha256" not in info.hashes:
            return None
        return Target(path, info.hashes["sha256"], info.length)


class Fetcher(FetcherInterface):
    """tuf's fetching, which remembers what a refusal is about."""

    last: tuple[str, bytes] = ("", b"")
    """Name and bytes of the newest file fetched."""

    @staticmethod
    def named(url: str) -> str:
        """The metadata file that tuf asks for."""
        return url.removeprefix(_BASE)


class SourceFetcher(Fetcher):
    """tuf's synchronous fetching over our asynchronous port, from a thread."""

    def __init__(self, source: ArtifactSource, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._pending: concurrent.futures.Future[bytes | None] | None = None
        self._stopped = False

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = self.named(url)
        self._pending = asyncio.run_coroutine_threadsafe(self._source.metadata(name), self._loop)
        if self._stopped:
            self._pending.cancel()
        data = self._pending.result()
        if data is None:
            # For root N+1 this is how tuf learns that root N is the newest.
            raise tuf_errors.DownloadHTTPError(f"{name} does not exist", 404)
        self.last = (name, data)
        return iter([data])

    def stop(self) -> None:
        """End the thread's wait; call from the event loop when the cycle is cancelled."""
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()


def refresh(folder: Path, root: bytes, fetcher: Fetcher, now: datetime) -> TrustedTargets:
    """One cycle: root chain, timestamp, snapshot, targets, each verified as TUF 5.3-5.6 says.

    `root` is the pinned root version 1; `folder` remembers what was seen, against rollback.
    Raises: ReleaseRefused (unsigned, under_signed, expired, rolled_back, mix_and_match,
    tampered, fetch_failed, disk_full), LinkError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        updater = Updater(str(folder), _BASE, fetcher=fetcher, config=_CONFIG, bootstrap=root)
        updater.refresh()
        files: dict[str, Metadata[Any]] = {
            role: Metadata.from_file(str(folder / f"{role}.json")) for role in _ROLES
        }
    except (tuf_errors.DownloadError, OSError) as error:
        raise _not_fetched(error) from error
    except (tuf_errors.RepositoryError, DeserializationError, RecursionError) as error:
        raise _refusal(error, fetcher.last, folder) from error
    for role, metadata in files.items():
        if metadata.signed.is_expired(now):
            raise _expired(role, metadata.signed.version)
    return TrustedTargets(updater, files["root"].signed.version, files["targets"].signed.version)


def _not_fetched(error: Exception) -> LinkError | ReleaseRefused:
    if isinstance(error, OSError):
        return ReleaseRefused(
            f"metadata could not be kept on disk ({error.strerror or 'unknown error'})",
            code="disk_full" if error.errno == 28 else "fetch_failed",
        )
    if isinstance(error, tuf_errors.DownloadHTTPError):
        return ReleaseRefused(f"coordinator: {error}; nothing is published", code="fetch_failed")
    if isinstance(error, tuf_errors.DownloadLengthMismatchError):
        return ReleaseRefused("a metadata file is longer than signed or allowed", code="tampered")
    if isinstance(error.__cause__, LinkError):
        return error.__cause__
    return LinkError(f"metadata was not fetched ({type(error.__cause__ or error).__name__})")


def _refusal(error: Exception, last: tuple[str, bytes], folder: Path) -> ReleaseRefused:
    """What a failed verification means, found from the file it is about."""
    name, data = last
    role = name.removesuffix(".json").rpartition(".")[2]
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        return _expired(role, None)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (DeserializationError, RecursionError):
        return ReleaseRefused(f"{role} metadata cannot be read", code="tampered")
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return _signatures(role, metadata, folder)
    asked = name.partition(".")[0]
    if asked.isdecimal() and metadata.signed.version != int(asked):
        return ReleaseRefused(
            f"{role} metadata is version {metadata.signed.version} where the signed metadata "
            f"above it names {asked}: files of different publications are mixed",
            code="mix_and_match",
        )
    if isinstance(error, tuf_errors.BadVersionNumberError):
        return ReleaseRefused(
            f"{role} metadata goes back behind a version already seen", code="rolled_back"
        )
    return ReleaseRefused(
        f"{role} metadata is not what the signed metadata above it names", code="tampered"
    )


def _signatures(role: str, metadata: Metadata[Any], folder: Path) -> ReleaseRefused:
    trusted: Metadata[Root] = Metadata.from_file(str(folder / "root.json"))
    delegators = [trusted.signed]
    if isinstance(metadata.signed, Root):  # a new root needs its own threshold as well
        delegators.append(metadata.signed)
    for root in delegators:
        result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        have, need = len(result.signed), result.threshold
        if have >= need:
            continue
        claimed = [keyid for keyid in root.roles[role].keyids if keyid in metadata.signatures]
        if not claimed:
            return ReleaseRefused(f"{role} metadata has no signature of its keys", code="unsigned")
        if len(claimed) >= need:
            return ReleaseRefused(
                f"{role} metadata was changed after signing: {have} of {len(claimed)} signatures "
                "hold",
                code="tampered",
            )
        return ReleaseRefused(
            f"{role} metadata has {have} of {need} signatures", code="under_signed"
        )
    return ReleaseRefused(f"{role} metadata is not signed as its role asks", code="under_signed")


def _expired(role: str, version: int | None) -> ReleaseRefused:
    which = f"{role} metadata" + (f" version {version}" if version is not None else "")
    return ReleaseRefused(
        f"{which} has expired: its signers must publish anew, or this machine's clock is ahead",
        code="expired",
    )
