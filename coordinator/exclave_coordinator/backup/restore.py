"""`restore`: a home from an archive, every byte checked, whole or not at all."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exclave_coordinator import config
from exclave_coordinator.backup.archive import ARTIFACT, PIECE, Digesting, Head, read
from exclave_coordinator.backup.seal import MAGIC, Opener, is_sealed
from exclave_coordinator.errors import SetupError, StorageForeign
from exclave_coordinator.home import Home, building
from exclave_coordinator.ports import Clock, Rng
from exclave_coordinator.storage import files, tables
from exclave_coordinator.storage.database import check_ours, read_only, storage_error
from exclave_coordinator.storage.snapshot import check_pages


@dataclass(frozen=True, slots=True)
class Restored:
    """The home that came of it."""

    home: Home
    head: Head
    members: int
    damaged: tuple[str, ...]
    """Artifacts that were damaged when the backup was made, and are left out."""


def restore(file: Path, path: Path, *, clock: Clock, rng: Rng, passphrase: bytes = b"") -> Restored:
    """Make the home `path`, absent or empty until now, of an archive.

    It is unpacked beside and renamed once all of it is on disk and has been verified.
    Raises: SetupError, StorageForeign, StorageError; nothing was changed.
    """
    try:
        source = file.open("rb")
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}") from error
    with source, building(path) as home:
        members = _Members(home)
        digest = _read(source, passphrase, members)
        assert members.head is not None, "an archive that was read has a head"
        for folder in (home.artifacts, home.operators, home.run):
            folder.mkdir(mode=files.PRIVATE_FOLDER, exist_ok=True)
        _check(home, members.head, clock, rng)
        mark = {"created": members.head.created, "manifest_sha256": digest}
        files.write(home.restored_mark, json.dumps(mark).encode() + b"\n")
        _sync(home.path)
    return Restored(Home(path.absolute()), members.head, members.count, tuple(members.damaged))


def _read(source: BinaryIO, passphrase: bytes, members: _Members) -> str:
    beginning = source.read(len(MAGIC))
    source.seek(0)
    if not passphrase:
        if is_sealed(beginning):
            raise SetupError("the backup is sealed: give its passphrase with --passphrase-file")
        return read(source, members)
    opener = Opener(source, passphrase)
    digest = read(opener, members)
    opener.finish()
    return digest


class _Members:
    """Writes the members into the folder that will be the home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.head: Head | None = None
        self.count = 0
        self.damaged: list[str] = []

    def begin(self, head: Head) -> None:
        """Refuse early what could not be served."""
        if head.schema > tables.SCHEMA_VERSION:
            raise SetupError(
                f"the backup's database has schema version {head.schema}, this program knows "
                f"{tables.SCHEMA_VERSION}: restore it with version {head.version} or newer"
            )
        self.head = head

    def member(self, name: str, file: Digesting) -> None:
        """A private file in private folders; its name was matched against what may be there."""
        path = self._home.path / name
        for folder in reversed(Path(name).parents[:-1]):
            (self._home.path / folder).mkdir(mode=files.PRIVATE_FOLDER, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE)
        with os.fdopen(handle, "wb") as out:
            while data := file.read(PIECE):
                out.write(data)
            out.flush()
            os.fsync(out.fileno())
        self.count += 1
        artifact = ARTIFACT.fullmatch(name)
        if artifact and artifact[1] != file.sha256:
            # Gone, it is missing and will be uploaded again; there, it would never be.
            path.unlink()
            self.damaged.append(name)


def _check(home: Home, head: Head, clock: Clock, rng: Rng) -> None:
    """What `serve` will need can be used. Raises: SetupError, StorageForeign."""
    settings = config.load(home.settings_file)
    home.authority(settings, clock, rng)
    for key in sorted(home.keys.rglob("*.key")):
        files.load_ed25519(key)
    version = check_ours(home.database)
    if version != head.schema:
        raise StorageForeign(f"the backup says schema {head.schema}, its database {version}")
    try:
        with closing(sqlite3.connect(read_only(home.database), uri=True)) as connection:
            check_pages(connection)
    except sqlite3.Error as error:
        raise storage_error(error) from error


def _sync(folder: Path) -> None:
    for below, _, _ in os.walk(folder):
        files.sync_folder(Path(below))
