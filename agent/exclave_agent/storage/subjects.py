"""Subjects' keys, as people dispose of them: destroyed for good, or held against that.

Everything that changes them runs in the writer's thread, between two of its transactions: no leaf
is sealed under a key while it is destroyed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exclave_agent.audit.store import Erasing, Hold
from exclave_agent.errors import BadRequest

from .connect import storage_error

if TYPE_CHECKING:
    from .sqlite import Writer
    from .vault import VaultWriter

TOMBSTONE_BYTES = 32
_HOLD = b"exclave legal hold v1\x00"


class SqliteSubjects:
    """An `audit.store.Subjects`."""

    def __init__(self, writer: Writer, vault: VaultWriter) -> None:
        self._writer = writer
        self._vault = vault

    async def destroy_key(self, subject: str) -> Erasing | None:
        vault = self._vault
        tag = vault.master.tag(subject)

        def destroy(_: sqlite3.Connection) -> Erasing | None:
            with _transaction(vault.connection) as execute:
                held = execute(
                    "SELECT reference FROM hold WHERE tag IS NULL OR tag = ? LIMIT 1", (tag,)
                ).fetchone()
                if held is not None:
                    raise BadRequest(
                        f"legal hold {held[0]} stands on this subject: lift it first",
                        param="subject",
                        code="on_hold",
                    )
                row = execute("SELECT id FROM subject WHERE tag = ?", (tag,)).fetchone()
                if row is None:
                    return None
                # The row stays while values lie there: its number is nobody else's meanwhile.
                name = vault.rng.token(TOMBSTONE_BYTES)
                execute("UPDATE subject SET tag = ?, wrapped = x'' WHERE id = ?", (name, row[0]))
            vault.forget(subject)
            return Erasing(row[0], name)

        return await self._writer.run(destroy)

    async def erasing(self) -> Sequence[Erasing]:
        def find(_: sqlite3.Connection) -> list[Erasing]:
            rows = self._vault.connection.execute(
                "SELECT id, tag FROM subject WHERE wrapped = x'' ORDER BY id"
            )
            return [Erasing(number, name) for number, name in rows]

        return await self._writer.run(find)

    async def drop_answers(self, erasing: Erasing) -> int:
        # The number was of no other key: the row with it was there all the time.
        return await self._writer.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM completion WHERE subject = ?", (erasing.number,)
                ).rowcount
            )
        )

    async def bury(self, erasing: Erasing) -> None:
        def end(_: sqlite3.Connection) -> None:
            with _transaction(self._vault.connection) as execute:
                execute("DELETE FROM subject WHERE id = ? AND wrapped = x''", (erasing.number,))

        await self._writer.run(end)

    # --- holds -----------------------------------------------------------------------------------

    async def holds(self) -> Sequence[Hold]:
        def find(_: sqlite3.Connection) -> list[Hold]:
            rows = self._vault.connection.execute(
                "SELECT id, reference, since_ns, sealed FROM hold ORDER BY since_ns, id"
            )
            return [Hold(name, told, since, self._opened(name, s)) for name, told, since, s in rows]

        return await self._writer.run(find)

    async def hold(self, hold: Hold) -> None:
        vault, of = self._vault, hold.subject
        tag = None if of is None else vault.master.tag(of)
        sealed = None
        if of is not None:
            sealed = vault.master.seal(vault.rng, of.encode(), _HOLD + hold.name.encode())

        def keep(_: sqlite3.Connection) -> None:
            with _transaction(vault.connection) as execute:
                execute(
                    "INSERT INTO hold (id, reference, since_ns, tag, sealed) VALUES (?,?,?,?,?)",
                    (hold.name, hold.reference, hold.since_ns, tag, sealed),
                )

        await self._writer.run(keep)

    async def lift(self, name: str) -> None:
        def end(_: sqlite3.Connection) -> None:
            with _transaction(self._vault.connection) as execute:
                execute("DELETE FROM hold WHERE id = ?", (name,))

        await self._writer.run(end)

    def _opened(self, name: str, sealed: bytes | None) -> str | None:
        if sealed is None:
            return None
        return self._vault.master.open(sealed, _HOLD + name.encode()).decode()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[Callable[..., sqlite3.Cursor]]:
    """Of vault.db alone, durable at its end. Raises: sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def held(vault: sqlite3.Connection) -> Held:
    """Whose values must not end now. Raises: StorageError."""
    try:
        rows = vault.execute(
            "SELECT hold.id, hold.tag IS NULL, subject.id FROM hold "
            "LEFT JOIN subject ON subject.tag = hold.tag ORDER BY hold.id"
        ).fetchall()
    except sqlite3.Error as error:
        raise storage_error(error, "read the legal holds") from error
    names = b"\n".join(name.encode() for name, _, _ in rows)
    return Held(
        frozenset(number for _, _, number in rows if number is not None),
        any(everything for _, everything, _ in rows),
        hashlib.sha256(names).hexdigest()[:16] if rows else "",
    )


@dataclass(frozen=True, slots=True)
class Held:
    """What the legal holds stand on."""

    numbers: frozenset[int]
    """Of subjects."""
    everything: bool
    digest: str
    """Tells one set of holds from another; "": there is none."""

    def covers(self, number: int | None) -> bool:
        """Whether values of the subject of that number stay."""
        return self.everything or number in self.numbers
