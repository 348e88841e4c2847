"""The database file: opened and checked, one writer thread with group commit, four readers."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from exclave_coordinator.errors import StorageError, StorageForeign, StorageFull, Unavailable
from exclave_coordinator.ports import Tx
from exclave_coordinator.storage import tables
from exclave_coordinator.storage.transaction import SqlTx

T = TypeVar("T")

APPLICATION_ID = 0x45584356
"""SQLite application_id of our files: "EXCV"."""

_GROUP = 64
"""Most jobs that share one commit (and its fsync)."""
_WAITING = 2048
"""Most jobs in the queue: beyond it callers wait."""


@dataclass(slots=True)
class _Job:
    run: Callable[[Tx], Any]
    done: Callable[[Any, BaseException | None], None]
    result: Any = None
    error: BaseException | None = None


class Database:
    """`ports.Store` over SQLite: WAL, synchronous=FULL, foreign keys."""

    def __init__(self, path: Path) -> None:
        """Open an existing database of the present schema. Raises: StorageForeign, StorageError."""
        _require_present(path)
        self._engine = open_engine(path)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="db-read")
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(_WAITING)
        self._closed = False
        self._writer = threading.Thread(target=self._write_loop, name="db-write", daemon=True)
        self._writer.start()

    async def write(self, job: Callable[[Tx], T], *, after: Callable[[T], None] | None = None) -> T:
        """See `ports.Store.write`. Jobs that wait together share one commit."""
        if self._closed:
            raise Unavailable("the coordinator is stopping")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T, error: BaseException | None) -> None:
            self._room.release()
            if error is None and after is not None:
                after(result)
            if future.done():  # the caller was cancelled; the change stands
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def done(result: T, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, result, error)

        await self._room.acquire()
        self._queue.put(_Job(job, done))
        return await future

    async def read(self, job: Callable[[Tx], T]) -> T:
        """See `ports.Store.read`."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, job)

    def close(self) -> None:
        """Finish every queued job, then let go of the file. Blocks; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown(wait=True)
        self._engine.dispose()

    def _read(self, job: Callable[[Tx], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return job(SqlTx(connection))
        except DBAPIError as error:
            raise storage_error(error) from error

    def _write_loop(self) -> None:
        with self._engine.connect() as connection:
            while True:
                group, stopping = self._gather()
                if group:
                    self._commit(connection, group)
                if stopping:
                    return

    def _gather(self) -> tuple[list[_Job], bool]:
        """The next job and whatever waits behind it; True when it is time to stop."""
        group: list[_Job] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == _GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, connection: Connection, group: list[_Job]) -> None:
        try:
            with connection.begin():
                tx = SqlTx(connection)
                for job in group:
                    _run(connection, tx, job)
        except DBAPIError as error:
            # The whole group shares the fate of its commit.
            failure = storage_error(error)
            for job in group:
                job.result, job.error = None, failure
        except Exception as error:  # noqa: BLE001 (the one writer must not die of a surprise)
            for job in group:
                job.result, job.error = None, error
        for job in group:
            job.done(job.result, job.error)


def _run(connection: Connection, tx: Tx, job: _Job) -> None:
    """One job inside its savepoint. A failure of the disk ends the group instead."""
    savepoint = connection.begin_nested()
    try:
        job.result = job.run(tx)
        savepoint.commit()
    except IntegrityError as error:
        savepoint.rollback()
        job.error = StorageError("the change breaks a rule of the database; nothing was changed")
        job.error.__cause__ = error
    except DBAPIError:
        raise
    except BaseException as error:  # noqa: BLE001 (handed to the caller, who awaits it)
        savepoint.rollback()
        job.error = error


def once(path: Path, job: Callable[[Tx], T], *, writing: bool = False) -> T:
    """One transaction of a command, whether or not a coordinator serves the database. Blocks.

    Writing, it waits up to ten seconds for the coordinator's own transactions, which then wait
    for this one: `job` must be quick, and may change only what no running coordinator keeps in
    memory. Raises: StorageForeign (another schema), StorageFull, StorageError.
    """
    _require_present(path)
    engine = open_engine(path, writing=writing)
    try:
        with engine.connect() as connection, connection.begin():
            return job(SqlTx(connection))
    except DBAPIError as error:
        raise storage_error(error) from error
    finally:
        engine.dispose()


def _require_present(path: Path) -> None:
    if (version := check_ours(path)) < tables.SCHEMA_VERSION:
        raise StorageForeign(
            f"coordinator.db has schema version {version}, this program works with "
            f"{tables.SCHEMA_VERSION}: run `exclave-coordinator migrate`"
        )


def create(path: Path) -> None:
    """A new, empty database. Raises: StorageError when the file exists."""
    if path.exists():
        raise StorageError("the database file exists already; nothing was changed")
    path.touch(mode=0o600)
    engine = open_engine(path)
    try:
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            tables.metadata.create_all(connection)
            connection.execute(insert(tables.schema_version), {"version": tables.SCHEMA_VERSION})
    except DBAPIError as error:
        raise storage_error(error) from error
    finally:
        engine.dispose()


def check_ours(path: Path, known: int = tables.SCHEMA_VERSION) -> int:
    """The schema version of our database, at most `known`; nothing is written.

    Raises: StorageForeign (not ours, damaged, or newer than we are), StorageError (missing).
    """
    if not path.is_file():
        raise StorageError(
            "coordinator.db is missing: restore it from a backup, or init a new home"
        )
    try:
        with closing(sqlite3.connect(read_only(path), uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID:
                raise StorageForeign("coordinator.db is not a database of this program")
            row = connection.execute("SELECT version FROM schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise StorageForeign("coordinator.db is damaged, or no SQLite database") from error
    version = int(row[0]) if row else 0
    if version < 1:
        raise StorageForeign("coordinator.db is damaged: it does not say its schema version")
    if version > known:
        raise StorageForeign(
            f"coordinator.db has schema version {version}, this program knows {known}: run the "
            "version that wrote it; nothing was changed",
            code="storage_newer",
        )
    return version


def read_only(path: Path) -> str:
    """The SQLite URI of a file that is only read."""
    return f"file:{quote(str(path))}?mode=ro"


def schema_version(path: Path) -> int:
    """What the file says of itself, for `doctor`. Raises: StorageForeign, StorageError."""
    version = check_ours(path)
    engine = open_engine(path)
    try:
        with engine.connect() as connection:
            connection.execute(select(tables.operator_state.c.size)).first()
    except DBAPIError as error:
        raise storage_error(error) from error
    finally:
        engine.dispose()
    return version


def open_engine(path: Path, *, writing: bool = False, migrating: bool = False) -> Engine:
    """SQLAlchemy's engine with our pragmas and transactions.

    Writing, every transaction takes the writers' lock at once; without, those of the thread
    "db-write" do. Migrating, foreign keys are off as well, as a table that is built anew is
    dropped meanwhile: whoever migrates checks them before the commit.
    """
    # isolation_level None: SQLAlchemy's begin event below decides how transactions open,
    # as pysqlite's own guesswork breaks savepoints.
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 10.0},
        pool_size=6,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA foreign_keys={'OFF' if migrating else 'ON'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        locking = writing or threading.current_thread().name == "db-write"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if locking else "BEGIN")

    return engine


def storage_error(error: DBAPIError | sqlite3.Error) -> StorageError:
    """What the database could not do, in our words; `error` is its cause."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(origin, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_FULL:
        failure: StorageError = StorageFull("the disk is full; nothing was changed")
    elif primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        failure = StorageForeign("coordinator.db is damaged: restore it from a backup")
    elif primary == sqlite3.SQLITE_BUSY:
        failure = StorageError("another program is writing to coordinator.db: try again")
    else:
        failure = StorageError(f"the database failed ({type(origin).__name__}); nothing changed")
    failure.__cause__ = error
    return failure
