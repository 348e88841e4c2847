"""Schemas of state.db and vault.db, and the steps that bring an older file up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exclave_agent.disk import sync_folder
from exclave_agent.errors import StorageError
from exclave_agent.storage.connect import (
    FileKind,
    check_header,
    check_version,
    open_reader,
    open_writer,
    storage_error,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

Step = Callable[["Database"], None]


def _steps(kind: FileKind) -> tuple[Step, ...]:
    from . import state, vault

    return {state.KIND.name: state.STEPS, vault.KIND.name: vault.STEPS}[kind.name]


def _additions(kind: FileKind) -> Mapping[str, Step]:
    """Tables by name, and how they are made."""
    from . import state, vault

    additions: dict[str, Mapping[str, Step]]
    additions = {state.KIND.name: state.ADDITIONS, vault.KIND.name: vault.ADDITIONS}
    return additions[kind.name]


def ensure(path: Path, kind: FileKind) -> None:
    """Make the file, or bring it up to date; a file that is not ours is never written.

    Raises: StorageForeign, StorageFull, StorageError.
    """
    if not path.exists():
        _create(path, kind)
        return
    check_header(path, kind)
    version = check_version(path, kind)
    if version < kind.version:
        connection = open_writer(path)
        try:
            _apply(connection, kind, version)
        finally:
            connection.close()
    if _missing(path, kind):
        connection = open_writer(path)
        try:
            _add(connection, kind)
        finally:
            connection.close()


def _missing(path: Path, kind: FileKind) -> bool:
    """Whether the file lacks a table that was added without a new schema."""
    wanted = _additions(kind)
    if not wanted:
        return False
    try:
        with contextlib.closing(open_reader(path)) as connection:
            return not wanted.keys() <= _tables(connection)
    except sqlite3.Error as error:
        raise storage_error(error, f"open {kind.name}") from error


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows}


def _create(path: Path, kind: FileKind) -> None:
    """Build the file under another name and rename it: it is there whole, or not at all."""
    draft = path.with_name(path.name + ".new")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise StorageError(f"cannot create {kind.name}: {error.strerror}") from error
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute(f"PRAGMA application_id = {kind.application_id}")
        _apply(connection, kind, 0)
        _add(connection, kind)
        # WAL is a property of the file: set while the file is still private to us.
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        raise storage_error(error, f"create {kind.name}") from error
    finally:
        connection.close()
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{draft}{suffix}")
    os.rename(draft, path)
    sync_folder(path.parent)


def _apply(connection: sqlite3.Connection, kind: FileKind, version: int) -> None:
    """Every step in a transaction of its own, its version number with it."""
    # It takes a quarter of a second to import: only when there is work for it.
    from sqlite_utils import Database

    database = Database(connection)
    steps = _steps(kind)
    for number, step in enumerate(steps[version:], version + 1):
        try:
            connection.execute("BEGIN IMMEDIATE")
            step(database)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise storage_error(error, f"bring {kind.name} to schema {number}") from error


def _add(connection: sqlite3.Connection, kind: FileKind) -> None:
    """Make the tables that are missing, in one transaction."""
    from sqlite_utils import Database

    database = Database(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        there = _tables(connection)
        for name, step in _additions(kind).items():
            if name not in there:
                step(database)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise storage_error(error, f"add what is new to {kind.name}") from error
