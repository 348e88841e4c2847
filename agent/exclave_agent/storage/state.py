"""Small named values: the last generation, the active release, the clock's floor."""

from __future__ import annotations

import asyncio
import sqlite3

from .pool import ReadPool
from .sqlite import Writer
from .vault import VaultReader


class SqliteStateStore:
    """A `ports.StateStore` in state.db."""

    def __init__(self, writer: Writer, pool: ReadPool) -> None:
        self._writer = writer
        self._pool = pool

    async def get(self, key: str) -> bytes | None:
        def find(connection: sqlite3.Connection, _: VaultReader | None) -> bytes | None:
            row = connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            return None if row is None else bytes(row[0])

        return await asyncio.wrap_future(self._pool.submit(find))

    async def put(self, key: str, value: bytes | None) -> None:
        def change(connection: sqlite3.Connection) -> None:
            if value is None:
                connection.execute("DELETE FROM state WHERE key = ?", (key,))
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)", (key, value)
                )

        await self._writer.run(change)
