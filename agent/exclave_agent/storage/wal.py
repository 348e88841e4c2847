"""Moves the write-ahead log into the database beside the writer, so that no record waits for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from .connect import open_writer

log = logging.getLogger(__name__)

PAGES = 1000
"""Pages of log, by estimate, between two checkpoints; SQLite's own default."""
PAGES_MOST = 8192
"""Pages (32 MiB) at which the writer does it itself: only then can a busy log start anew."""
_PAGES_PER_COMMIT = 2


class WalKeeper:
    """A thread that runs passive checkpoints. Left to the commit that happens to be the
    thousandth, one would add two writes and fsyncs of megabytes to that record's wait."""

    def __init__(self, path: Path) -> None:
        """Raises: sqlite3.Error."""
        self._connection = open_writer(path)
        self._pages = 0
        self._due = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="exclave-wal", daemon=True)
        self._thread.start()

    def wrote(self, commands: int) -> None:
        """From the writer's thread, after each transaction."""
        self._pages += _PAGES_PER_COMMIT + commands
        if self._pages >= PAGES:
            self._pages = 0
            self._due.set()

    def _work(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping:
                return
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:
                # A full disk: the log stays where it is, and the writer tries at PAGES_MOST.
                log.warning("cannot move the write-ahead log: %s", error.sqlite_errorname)

    def close(self) -> None:
        """Stop the thread. Idempotent; blocking."""
        self._stopping = True
        self._due.set()
        self._thread.join()
        self._connection.close()
