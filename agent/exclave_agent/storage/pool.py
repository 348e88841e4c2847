"""Reads off the event loop: a few threads, each with read-only connections of its own."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from exclave_agent.errors import StorageError

from .connect import open_reader, storage_error
from .vault import MasterKey, VaultReader

T = TypeVar("T")

THREADS = 2


class ReadPool:
    """Runs queries, each in one snapshot of state.db."""

    def __init__(self, state: Path, vault: Path | None, master: MasterKey | None) -> None:
        """`vault` and `master` are both given, or values stay closed."""
        self._state = state
        self._vault = vault
        self._master = master
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="exclave-reader")

    def submit(self, query: Callable[[sqlite3.Connection, VaultReader | None], T]) -> Future[T]:
        """Start a query. Raises (from the future): StorageError."""
        try:
            return self._executor.submit(self._run, query)
        except RuntimeError as error:
            raise StorageError("the agent is stopping", code="storage_closed") from error

    def _run(self, query: Callable[[sqlite3.Connection, VaultReader | None], T]) -> T:
        try:
            connection, vault = self._connections()
            connection.execute("BEGIN")
            try:
                return query(connection, vault)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise storage_error(error, "read the database") from error

    def _connections(self) -> tuple[sqlite3.Connection, VaultReader | None]:
        known: tuple[sqlite3.Connection, VaultReader | None] | None
        known = getattr(self._local, "known", None)
        if known is None:
            connection = open_reader(self._state)
            self._opened.append(connection)
            vault = None
            if self._vault is not None and self._master is not None:
                values = open_reader(self._vault)
                self._opened.append(values)
                vault = VaultReader(values, self._master)
            known = self._local.known = (connection, vault)
        return known

    def close(self) -> None:
        """Finish what runs, then close. Idempotent; blocking."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        while self._opened:
            self._opened.pop().close()
