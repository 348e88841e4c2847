"""A copy of the database as of one moment, whether or not a coordinator is writing to it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from exclave_coordinator.errors import StorageError, StorageForeign, StorageFull
from exclave_coordinator.storage.database import read_only, storage_error
from exclave_coordinator.storage.files import PRIVATE


def snapshot(source: Path, target: Path) -> None:
    """Copy a database into a new, private, single file; checked and on disk when this returns.

    One read transaction sees it all: writers go on and are not in the copy. A target that
    could not be finished is removed.
    Raises: StorageFull, StorageForeign (the database is damaged), StorageError.
    """
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    except OSError as error:
        raise StorageError(f"cannot write beside {target.name}: {error.strerror}") from error
    try:
        with (
            closing(sqlite3.connect(read_only(source), uri=True)) as reader,
            closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            # All pages in one step: in several, every write in between would start it anew.
            reader.backup(writer, pages=-1)
            # The copy says WAL as the original does; alone in its folder it shall be one file.
            writer.execute("PRAGMA journal_mode=DELETE")
            check_pages(writer)
        _sync(target)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise _failure(error) from error
        raise


def check_pages(connection: sqlite3.Connection) -> None:
    """Look at every page of a database. Raises: StorageForeign, sqlite3.Error."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageForeign("coordinator.db is damaged: restore it from a backup")


def _failure(error: sqlite3.Error) -> StorageError:
    failure = storage_error(error)
    if isinstance(failure, StorageFull):
        return StorageFull("the disk is too full for a copy of coordinator.db; nothing was changed")
    return failure


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
