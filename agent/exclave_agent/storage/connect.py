"""Opens our SQLite files, and says in our words what SQLite says in its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from exclave_agent.errors import StorageError, StorageForeign, StorageFull

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\x00"
QUICK_CHECK_BYTES = 64 << 20
"""Files up to this size have every page checked at boot; larger ones as they are read."""
BUSY_TIMEOUT_MS = 5_000
"""How long a writer waits for another process's short write (a key made by the CLI)."""

_FULL = {sqlite3.SQLITE_FULL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@dataclass(frozen=True, slots=True)
class FileKind:
    """One of our databases. `application_id` stands in the file's header for good."""

    name: str
    application_id: int
    version: int
    """The newest schema this program knows (`user_version`)."""


def storage_error(error: sqlite3.Error | OSError, doing: str) -> StorageError:
    """The error as callers know it; `doing` completes "cannot ..."."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if primary in _FULL:
        return StorageFull(f"cannot {doing}: the disk is full; free space and try again")
    if primary in _DAMAGED:
        return StorageForeign(
            f"cannot {doing}: the database is damaged ({name}); restore the home from a backup"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            f"cannot {doing}: another process holds the database", code="storage_busy"
        )
    if primary == sqlite3.SQLITE_IOERR:
        return StorageError(
            f"cannot {doing}: the disk refused to write or read ({name})", code="storage_io"
        )
    return StorageError(f"cannot {doing}: {name}")


def check_header(path: Path, kind: FileKind) -> None:
    """Refuse a file that is not ours by its first 100 bytes, before SQLite touches it.

    Our files are made whole and then renamed into place, so a header is there from the
    start. Raises: StorageForeign, StorageError.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise StorageError(f"cannot read {kind.name}: {error.strerror}") from error
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise StorageForeign(
            f"{kind.name} is not a SQLite database, or its first page is damaged; it was left "
            "as it is: restore the home from a backup, or move the file away"
        )
    if int.from_bytes(header[68:72], "big") != kind.application_id:
        raise StorageForeign(
            f"{kind.name} is a SQLite database of another program; it was left as it is: "
            "move it away, or point the agent at another home"
        )


def check_version(path: Path, kind: FileKind) -> int:
    """The schema version of a file whose header is ours, read without writing.

    Raises: StorageForeign when a newer program wrote it or it is damaged.
    """
    try:
        with closing(open_reader(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise storage_error(error, f"open {kind.name}") from error
    if version > kind.version:
        raise StorageForeign(
            f"{kind.name} has schema {version}, this program knows {kind.version}; it was left "
            "as it is: install the newer version again"
        )
    return int(version)


def check_pages(path: Path, kind: FileKind) -> None:
    """Look for damage in a file of moderate size, before anything writes to it.

    Raises: StorageForeign, StorageError.
    """
    if path.stat().st_size > QUICK_CHECK_BYTES:
        return
    try:
        with closing(open_reader(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise storage_error(error, f"check {kind.name}") from error
    if verdict != "ok":
        raise StorageForeign(
            f"{kind.name} is damaged; it was left as it is: restore the home from a backup"
        )


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; usable from one thread at a time."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -2048")
    return connection


def open_writer(path: Path, *, secure_delete: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: every commit is on disk when it returns."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -4096")
    if secure_delete:
        connection.execute("PRAGMA secure_delete = ON")
    return connection
