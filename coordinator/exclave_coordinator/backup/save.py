"""`backup`: everything that makes a coordinator go into one file, while it serves or not."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave_coordinator import config
from exclave_coordinator.backup.archive import (
    ARTIFACT,
    DATABASE,
    NEEDED,
    Head,
    Writer,
    belongs,
    writing,
)
from exclave_coordinator.backup.seal import SALT, Sealer
from exclave_coordinator.errors import SetupError, StorageError, StorageFull
from exclave_coordinator.home import Home
from exclave_coordinator.ports import Clock, Rng
from exclave_coordinator.storage import files
from exclave_coordinator.storage.database import check_ours
from exclave_coordinator.storage.named import named_files
from exclave_coordinator.storage.snapshot import snapshot


@dataclass(frozen=True, slots=True)
class Saved:
    """What a backup holds."""

    path: Path
    members: int
    length: int
    """Bytes of the archive."""
    schema: int
    damaged: tuple[str, ...]
    """Artifacts whose bytes are not what their name says; a restore leaves them out."""
    missing: tuple[str, ...] = ()
    """Artifacts that published targets name and the home lacks: the backup lacks them too."""


def backup(
    home: Home, file: Path, *, version: str, clock: Clock, rng: Rng, passphrase: bytes = b""
) -> Saved:
    """Write the archive `file`, private, with a passphrase sealed.

    The database comes first and everything else after: keys and artifacts are written before
    the rows that name them and are never removed, so the archive names nothing it lacks.
    MUST: `file` is whole and on disk, or not there.
    Raises: SetupError, StorageFull, StorageForeign, StorageError.
    """
    config.load(home.settings_file)
    file = file.absolute()
    if file.exists():
        raise SetupError(f"{file} exists and is not overwritten: choose another name")
    with _beside(file) as folder:
        copy, part = folder / DATABASE, folder / "archive"
        created = clock.now()
        snapshot(home.database, copy)
        head = Head(check_ours(copy), version, created)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            sealer = Sealer(out, passphrase, rng.token(SALT)) if passphrase else None
            with writing(sealer or out, head) as writer:
                _add(writer, DATABASE, copy)
                damaged = _add_home(writer, home)
                missing = _check_whole(writer, copy)
            if sealer is not None:
                sealer.close()
            out.flush()
            os.fsync(out.fileno())
            length = out.tell()
        part.rename(file)
        files.sync_folder(file.parent)
    return Saved(file, writer.count, length, head.schema, damaged, missing)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A private folder on the same disk as `file`; what is in it does not survive."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    except OSError as error:
        raise SetupError(f"cannot write in {file.parent} ({error.strerror})") from error
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk is full; no backup was written") from error
        where = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"no backup was written: {where}{error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add_home(writer: Writer, home: Home) -> tuple[str, ...]:
    """Everything but the database; returns the damaged artifacts."""
    damaged = []
    for path in _files(home.path):
        name = path.relative_to(home.path).as_posix()
        if name == DATABASE or not belongs(name):
            continue
        digest = _add(writer, name, path)
        artifact = ARTIFACT.fullmatch(name)
        if artifact and artifact[1] != digest:
            damaged.append(name)
    return tuple(damaged)


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be listed would only be left out without a word

    # Links are followed: artifacts may lie on a larger disk, which may have a lost+found of root's.
    for below, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if name != "lost+found")
        yield from (Path(below, name) for name in sorted(names))


def _add(writer: Writer, name: str, path: Path) -> str:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        return writer.add(name, file, stat.st_size, int(stat.st_mtime))


def _check_whole(writer: Writer, copy: Path) -> tuple[str, ...]:
    """Compare with what the database's copy names; returns the artifacts that are missing.

    Those can be published again, and what is left is worth keeping; keys cannot be made again.
    Raises: SetupError (a key or another file without which no home is whole).
    """
    if missing := NEEDED - writer.members.keys():
        raise SetupError(
            f"{min(missing)} is missing in the home: no backup was written; "
            "`exclave-coordinator doctor` says more"
        )
    named = named_files(copy)
    if missing := named.keys - writer.members.keys():
        raise SetupError(
            f"{', '.join(sorted(missing))}: missing in the home, and the tenant needs it: no "
            "backup was written; put it back from an older backup"
        )
    return tuple(sorted(named.artifacts - writer.members.keys()))
