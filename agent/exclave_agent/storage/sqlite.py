"""The one writer: a thread that gathers what waits into one transaction and one fsync."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from exclave_agent.audit.chain import Prepared, Sealed
from exclave_agent.errors import StorageError, unforeseen
from exclave_agent.ports import Appended

from .connect import storage_error
from .wal import WalKeeper

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_PENDING = 4096
"""Commands that may wait; more is refused, so that memory stays bounded."""
MAX_BATCH = 256
"""Commands of one transaction."""
MAX_BATCH_BYTES = 4 << 20
"""Private bytes of one transaction, beyond which it takes no more commands."""

Run = Callable[[sqlite3.Connection], object]


class LogTail(Protocol):
    """The end of the audit log, as the writer's thread moves it."""

    def begin(self) -> None:
        """Remember this place."""
        ...

    def seal(self, prepared: Prepared) -> tuple[Sealed, Appended]:
        """Give a leaf its place. Raises: StorageError; the tail stays."""
        ...

    def ready(self, sealed: Sequence[Sealed]) -> None:
        """Have durable keys for the leaves' values. Raises: StorageError, sqlite3.Error."""
        ...

    def insert(self, connection: sqlite3.Connection, sealed: Sequence[Sealed]) -> None:
        """Add leaves and values in the caller's transaction, or in one statement of its own."""
        ...

    def single(self, sealed: Sequence[Sealed]) -> bool:
        """Whether `insert` will be one statement."""
        ...

    def settle(self, sealed: Sequence[Sealed]) -> None:
        """The leaves are durable."""
        ...

    def rewind(self) -> None:
        """They are not: back to the remembered place."""
        ...


@dataclass(slots=True, eq=False)
class Command:
    """What one caller waits for: a closure, a leaf, or both in one transaction."""

    future: asyncio.Future[object]
    run: Run | None = None
    leaf: Prepared | None = None
    """With `run`: appended unless `run` returned None."""
    size: int = 0
    result: object = None
    error: Exception | None = None


class _Stop:
    """Ends the thread once everything before it is carried out."""


class Writer:
    """Runs commands in the order of submission, many to a transaction.

    A command that fails, fails alone. A commit that fails, fails every command of its
    transaction and leaves nothing of them behind; the writer goes on. Whoever cancels an
    awaited command stops waiting for it, no more: it is still carried out.

    A future MUST NOT be resolved before the COMMIT that carries it has returned.
    """

    def __init__(self, connection: sqlite3.Connection, keeper: WalKeeper | None = None) -> None:
        """`keeper`: moves the write-ahead log into the database beside the writer."""
        self._connection = connection
        self._keeper = keeper
        self._queue: SimpleQueue[Command | _Stop] = SimpleQueue()
        self._pending = 0
        self._closed = False
        self._tail: LogTail | None = None
        self._thread = threading.Thread(target=self._work, name="exclave-writer", daemon=True)
        self._thread.start()

    def attach(self, tail: LogTail) -> None:
        """Set the log that leaves go to; before the first leaf is submitted."""
        self._tail = tail

    async def run(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run a closure in the writer's transaction; its result once that is durable.

        Raises: StorageFull, StorageError, and whatever the closure raises.
        """
        return await self._submit(run=run)  # type: ignore[return-value]  # the closure's own

    async def append(self, leaf: Prepared, *, run: Run | None = None) -> Appended | None:
        """Append a leaf; with `run`, in one transaction with it, and not at all when it
        returns None.

        Raises: StorageFull, StorageError.
        """
        result = await self._submit(run=run, leaf=leaf)
        assert result is None or isinstance(result, Appended)
        return result

    async def answer(self) -> None:
        """Return once the writer's thread has carried out what waits and a command that changes
        nothing, however many wait: whether it still works is never refused.

        Raises: StorageError.
        """
        future: _Waiter = asyncio.get_running_loop().create_future()
        self._pending += 1
        self._queue.put(Command(future, run=lambda _: None))
        await future

    def _submit(self, *, run: Run | None = None, leaf: Prepared | None = None) -> _Waiter:
        if self._closed:
            raise StorageError("the agent is stopping: nothing is recorded", code="storage_closed")
        if self._pending >= MAX_PENDING:
            raise StorageError(
                f"{MAX_PENDING} records wait for the disk already; slow down", code="storage_behind"
            )
        future: _Waiter = asyncio.get_running_loop().create_future()
        size = sum(len(d.encoded) for d in leaf.disclosures) if leaf is not None else 0
        self._pending += 1
        self._queue.put(Command(future, run, leaf, size))
        return future

    async def close(self) -> None:
        """Carry out everything submitted, then stop the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    # --- in the writer's thread ------------------------------------------------------------

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if isinstance(first, _Stop):
                return
            batch, stop = self._gather(first)
            self._carry_out(batch)
            self._resolve(batch)
            if self._keeper is not None:
                self._keeper.wrote(len(batch))
            # Let go of the values: the thread may wait long for the next command.
            del first, batch
            if stop:
                return

    def _gather(self, first: Command) -> tuple[list[Command], bool]:
        batch, size = [first], first.size
        while len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if isinstance(item, _Stop):
                return batch, True
            batch.append(item)
            size += item.size
        return batch, False

    def _carry_out(self, batch: list[Command]) -> None:
        """Commit the batch, or leave nothing of it and an error in each command."""
        try:
            self._commit(batch)
        except sqlite3.Error as error:
            self._undo(batch, storage_error(error, "write the record"))
        except StorageError as error:
            self._undo(batch, error)
        except Exception as error:  # noqa: BLE001 - told to every caller, and logged
            # A thread that died here would leave every caller waiting for ever.
            log.error("the writer met an error it does not know: %s", unforeseen(error))
            self._undo(batch, StorageError(f"cannot write the record: {type(error).__name__}"))

    def _commit(self, batch: list[Command]) -> None:
        connection, tail = self._connection, self._tail
        if tail is not None:
            tail.begin()
        closures = any(command.run is not None for command in batch)
        if closures:
            connection.execute("BEGIN IMMEDIATE")
        sealed: list[Sealed] = []
        for command in batch:
            self._prepare(command, sealed)
        if sealed and tail is not None:
            tail.ready(sealed)
            if not closures and not tail.single(sealed):
                connection.execute("BEGIN IMMEDIATE")
            tail.insert(connection, sealed)
        if connection.in_transaction:
            connection.execute("COMMIT")
        if tail is not None:
            tail.settle(sealed)

    def _prepare(self, command: Command, sealed: list[Sealed]) -> None:
        """Run one command's own part; its failure is its own."""
        run, leaf = command.run, command.leaf
        if run is not None:
            self._connection.execute("SAVEPOINT command")
        try:
            if run is not None:
                command.result = run(self._connection)
            if leaf is not None and (run is None or command.result is not None):
                if self._tail is None:
                    raise StorageError("no log is open: enroll the agent first")
                record, command.result = self._tail.seal(leaf)
                sealed.append(record)
        except sqlite3.Error as error:
            if not self._connection.in_transaction:
                raise  # SQLite gave up the whole transaction (disk full): so do we
            command.error = storage_error(error, "write the record")
        except Exception as error:  # noqa: BLE001 - the caller's closure, the caller's error
            command.error = error
        if run is not None:
            if command.error is not None:
                self._connection.execute("ROLLBACK TO command")
            self._connection.execute("RELEASE command")

    def _undo(self, batch: list[Command], error: StorageError) -> None:
        for command in batch:
            # An exception of its own for each: raising one object in many tasks would mix
            # their tracebacks.
            command.error = command.error or type(error)(error.message, code=error.code)
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as failure:
            log.error("cannot roll back, the next commit will fail: %s", unforeseen(failure))
        if self._tail is not None:
            self._tail.rewind()

    def _resolve(self, batch: list[Command]) -> None:
        loop = batch[0].future.get_loop()
        try:
            loop.call_soon_threadsafe(self._answer, batch)
        except RuntimeError:
            # The loop is gone, and with it everybody who waited.
            log.warning("%d records were written for callers that are gone", len(batch))

    def _answer(self, batch: list[Command]) -> None:
        """In the event loop: one wake-up for the whole batch."""
        self._pending -= len(batch)
        for command in batch:
            if command.future.done():  # its caller was cancelled
                continue
            if command.error is not None:
                command.future.set_exception(command.error)
            else:
                command.future.set_result(command.result)


_Waiter = asyncio.Future[object]
