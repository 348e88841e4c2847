"""Kept answers in state.db: sealed under their subject's key in the vault, found by keyed hashes.

Rows hold nothing that a reader of the file could use: keys are HMACs under a key derived from the
vault's master key, values and vectors are sealed and bound to their row. When a subject's key is
destroyed its values do not open any more; `sweep` takes the rows away.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from exclave_agent.errors import StorageError
from exclave_agent.ports import KeptCompletion

from .pool import ReadPool
from .sqlite import Writer
from .vault import MasterKey, VaultReader, VaultWriter

T = TypeVar("T")

_VALUE = b"exclave completion value v1\x00"
_VECTOR = b"exclave completion vector v1\x00"
_TURN = 16
"""Vectors between two turns of the interpreter's lock."""


class SqliteCompletions:
    """A `ports.CompletionStore`."""

    def __init__(
        self, writer: Writer, pool: ReadPool, vault: VaultWriter, master: MasterKey
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._vault = vault
        self._master = master

    def tag(self, digest: bytes) -> bytes:
        return self._master.index(digest)

    async def index(self) -> Sequence[KeptCompletion]:
        def find(connection: sqlite3.Connection, _: VaultReader | None) -> list[KeptCompletion]:
            rows = connection.execute(
                "SELECT key, scope, size, expires_ns FROM completion ORDER BY id"
            )
            return [KeptCompletion(*row) for row in rows]

        return await asyncio.wrap_future(self._pool.submit(find))

    async def get(self, key: bytes) -> bytes | None:
        def find(connection: sqlite3.Connection, vault: VaultReader | None) -> bytes | None:
            row = connection.execute(
                "SELECT subject, sealed FROM completion WHERE key = ?", (key,)
            ).fetchone()
            return None if row is None else _opened(vault, row[0], row[1], _VALUE + key)

        return await asyncio.wrap_future(self._pool.submit(find))

    async def put(
        self,
        kept: KeptCompletion,
        subject: str,
        value: bytes,
        vector: bytes = b"",
        *,
        drop: Sequence[bytes] = (),
    ) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            vault = self._vault
            vault.ready([subject])
            number, sealed = vault.seal_value(subject, value, _VALUE + kept.key)
            print_ = vault.key_print(number)
            if print_ is None:
                raise StorageError("the subject was erased: nothing is kept of it")
            packed = vault.seal_value(subject, vector, _VECTOR + kept.key)[1] if vector else b""
            _drop(connection, [kept.key, *drop])
            connection.execute(
                "INSERT INTO completion (key, scope, size, expires_ns, subject, key_print, vector, "
                "sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    kept.key,
                    kept.scope,
                    kept.size,
                    kept.expires_ns,
                    number,
                    print_,
                    packed,
                    sealed,
                ),
            )

        await self._writer.run(keep)

    async def similar(
        self, scope: bytes, limit: int, judge: Callable[[Iterator[tuple[bytes, bytes]]], T]
    ) -> T:
        def look(connection: sqlite3.Connection, vault: VaultReader | None) -> T:
            rows = connection.execute(
                "SELECT key, subject, vector FROM completion WHERE scope = ? AND vector != x'' "
                "ORDER BY id DESC LIMIT ?",
                (scope, limit),
            )
            return judge(_vectors(rows, vault))

        return await asyncio.wrap_future(self._pool.submit(look))

    async def drop(self, keys: Sequence[bytes]) -> None:
        await self._writer.run(lambda connection: _drop(connection, keys))

    async def sweep(self, now_ns: int) -> Sequence[bytes]:
        def clean(connection: sqlite3.Connection) -> list[bytes]:
            rows = connection.execute("SELECT DISTINCT subject, key_print FROM completion")
            erased = [row for row in rows if self._vault.key_print(row[0]) != row[1]]
            gone = [
                key
                for subject, print_ in erased
                for (key,) in connection.execute(
                    "DELETE FROM completion WHERE subject = ? AND key_print = ? RETURNING key",
                    (subject, print_),
                ).fetchall()
            ]
            over = connection.execute(
                "DELETE FROM completion WHERE expires_ns <= ? RETURNING key", (now_ns,)
            ).fetchall()
            return gone + [key for (key,) in over]

        return await self._writer.run(clean)


def _drop(connection: sqlite3.Connection, keys: Sequence[bytes]) -> None:
    connection.executemany("DELETE FROM completion WHERE key = ?", [(key,) for key in keys])


def _opened(vault: VaultReader | None, subject: int, sealed: bytes, context: bytes) -> bytes | None:
    if vault is None:
        raise StorageError("the vault is not open: its values cannot be read")
    return vault.open_value(subject, sealed, context)


def _vectors(
    rows: Iterator[tuple[bytes, int, bytes]], vault: VaultReader | None
) -> Iterator[tuple[bytes, bytes]]:
    if vault is None:
        raise StorageError("the vault is not open: its values cannot be read")
    whose, opened = 0, vault.opener(0)
    for number, (key, subject, sealed) in enumerate(rows):
        if number % _TURN == 0:
            time.sleep(0)  # the event loop need not wait for all of them to get its turn
        if subject != whose:  # a scope is of one subject: its key is looked up once
            whose, opened = subject, vault.opener(subject)
        vector = opened(sealed, _VECTOR + key)
        if vector is not None:
            yield key, vector
