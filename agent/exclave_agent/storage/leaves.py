"""The log in state.db: the tail that the writer moves, and the readers' view of the rest."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from exclave_agent.audit.chain import TILE_HEIGHT, Chain, Mark, Prepared, Sealed
from exclave_agent.audit.store import Erasing, LogReader, StoredCheckpoint, StoredLeaf, TreeHead
from exclave_agent.errors import StorageError
from exclave_agent.ports import Appended
from exclave_protocol.errors import ProofError
from exclave_protocol.tree import node_hash

from .connect import storage_error
from .ledger import add as add_to_ledger
from .migrations.state import SEQ_BITS
from .sqlite import Writer
from .subjects import Held, held
from .vault import VaultReader, VaultWriter

if TYPE_CHECKING:
    from .pool import ReadPool

T = TypeVar("T")

MAX_ROWS = 64
"""Leaves of one INSERT."""
QUIET_KEY = "audit.quiet_before"
WALK_KEY = "audit.retention"
_SCAN_ROWS = 512
_COLUMNS = 6


class LeafTail:
    """The end of one epoch's log; lives in the writer's thread (see `sqlite.LogTail`)."""

    def __init__(self, chain: Chain, vault: VaultWriter) -> None:
        self.chain = chain
        self.vault = vault
        """For the writer's thread alone."""
        self._first_id = chain.epoch << SEQ_BITS
        self._mark: Mark | None = None
        self._frozen: StorageError | None = None
        insert = "INSERT INTO leaf (id, hash, decision, data, subject, sealed) VALUES (?,?,?,?,?,?)"
        self._statements = [insert + ",(?,?,?,?,?,?)" * more for more in range(MAX_ROWS)]

    def begin(self) -> None:
        self._mark = self.chain.mark()

    def seal(self, prepared: Prepared) -> tuple[Sealed, Appended]:
        if self._frozen is not None:
            raise self._frozen
        sealed = self.chain.seal(prepared)
        return sealed, Appended(self.chain.epoch, sealed.seq, sealed.hash)

    def ready(self, sealed: Sequence[Sealed]) -> None:
        kept = [leaf.prepared for leaf in sealed if leaf.prepared.disclosures]
        self.vault.ready({each.subject for each in kept if each.subject_of is None})
        self.vault.ready_numbers({n for each in kept if (n := each.subject_of) is not None})

    def single(self, sealed: Sequence[Sealed]) -> bool:
        return len(sealed) <= MAX_ROWS and not any(
            leaf.nodes or leaf.prepared.ledger for leaf in sealed
        )

    def insert(self, connection: sqlite3.Connection, sealed: Sequence[Sealed]) -> None:
        rows: list[object] = []
        for leaf in sealed:
            leaf_id = self._first_id + leaf.seq
            decision = leaf.prepared.body.get("decision")
            rows += (
                leaf_id,
                leaf.hash,
                decision if isinstance(decision, str) else None,
                leaf.data,
                *self.vault.seal(leaf_id, leaf),
            )
        try:
            for start in range(0, len(sealed), MAX_ROWS):
                n = min(MAX_ROWS, len(sealed) - start)
                part = rows[start * _COLUMNS : (start + n) * _COLUMNS]
                # One statement is one turn of the interpreter's lock, and alone it is one
                # whole transaction: a busy event loop cannot come between.
                connection.execute(self._statements[n - 1], part)
        except sqlite3.IntegrityError:
            self._frozen = StorageError(
                "another process has written to this log; stop it, then restart the agent",
                code="log_forked",
            )
            raise self._frozen from None
        add_to_ledger(connection, [one for leaf in sealed for one in leaf.prepared.ledger])
        nodes = [
            (self.chain.epoch, node.level, node.index, node.hash)
            for leaf in sealed
            for node in leaf.nodes
        ]
        if nodes:
            connection.executemany(
                "INSERT INTO node (epoch, level, position, hash) VALUES (?, ?, ?, ?)", nodes
            )

    def settle(self, sealed: Sequence[Sealed]) -> None:
        for leaf in sealed:
            self.chain.settle(leaf.prepared.type, leaf.prepared.body, leaf.seq)

    def rewind(self) -> None:
        if self._mark is not None:
            self.chain.rewind(self._mark)


class LeafReader:
    """A `LogReader` on one connection, in whatever snapshot its caller opened."""

    def __init__(
        self, connection: sqlite3.Connection, vault: VaultReader | None, epoch: int
    ) -> None:
        self._connection = connection
        self._vault = vault
        self.epoch = epoch
        self._first_id = epoch << SEQ_BITS
        self._end_id = (epoch + 1) << SEQ_BITS

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, "read the log") from error

    def size(self) -> int:
        rows = self._rows(
            "SELECT max(id) FROM leaf WHERE id >= ? AND id < ?", self._first_id, self._end_id
        )
        last = rows[0][0]
        return 0 if last is None else int(str(last)) - self._first_id + 1

    def leaf(self, seq: int) -> StoredLeaf | None:
        for stored in self._stored(seq, seq + 1):
            return stored
        return None

    def _stored(self, first: int, end: int) -> list[StoredLeaf]:
        begin, stop = self._first_id + first, min(self._first_id + end, self._end_id)
        try:
            rows = self._connection.execute(
                "SELECT id, hash, data FROM leaf WHERE id >= ? AND id < ? ORDER BY id",
                (begin, stop),
            ).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, "read the log") from error
        return [StoredLeaf(row[0] - self._first_id, row[1], row[2]) for row in rows]

    def leaves(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        chosen: list[bytes] = []
        total = 0
        for stored in self._stored(first, first + limit):
            total += len(stored.data)
            if stored.seq != first + len(chosen) or (chosen and total > max_bytes):
                break
            chosen.append(stored.data)
        return chosen

    def scan(self, first: int) -> Iterator[StoredLeaf]:
        end = self.size()
        for start in range(first, end, _SCAN_ROWS):
            yield from self._stored(start, min(start + _SCAN_ROWS, end))

    def by_decision(self, decision: str) -> list[int]:
        rows = self._rows(
            "SELECT id FROM leaf WHERE decision = ? AND id >= ? AND id < ? ORDER BY id",
            decision,
            self._first_id,
            self._end_id,
        )
        return [int(str(row[0])) - self._first_id for row in rows]

    def node(self, level: int, index: int) -> bytes:
        base = level - level % TILE_HEIGHT
        first, count = index << (level - base), 1 << (level - base)
        if base == 0:
            start = self._first_id + first
            rows = self._rows(
                "SELECT hash FROM leaf WHERE id >= ? AND id < ? ORDER BY id", start, start + count
            )
        else:
            rows = self._rows(
                "SELECT hash FROM node WHERE epoch = ? AND level = ? AND position >= ? "
                "AND position < ? ORDER BY position",
                self.epoch,
                base,
                first,
                first + count,
            )
        hashes = [row[0] for row in rows if isinstance(row[0], bytes)]
        if len(hashes) != count:
            raise ProofError(f"no complete subtree {index} at level {level}")
        while len(hashes) > 1:
            hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
        return hashes[0]

    def checkpoint(self, *, cosigned: bool) -> StoredCheckpoint | None:
        rows = self._rows(
            "SELECT size, note, cosigned FROM checkpoint WHERE epoch = ? AND cosigned >= ? "
            "ORDER BY size DESC, cosigned DESC LIMIT 1",
            self.epoch,
            int(cosigned),
        )
        for size, note, is_cosigned in rows:
            assert isinstance(size, int)  # the table is STRICT
            assert isinstance(note, bytes)
            return StoredCheckpoint(size, note, bool(is_cosigned))
        return None

    def quiet_before(self) -> int:
        rows = self._rows("SELECT value FROM state WHERE key = ?", f"{QUIET_KEY}.{self.epoch}")
        mark = bytes(rows[0][0]) if rows and isinstance(rows[0][0], bytes) else b"0"
        # It only saves work: what cannot be a mark means that all is looked at.
        return int(mark) if mark.isdigit() and len(mark) < 19 else 0

    def kept(self, key: str) -> bytes | None:
        rows = self._rows("SELECT value FROM state WHERE key = ?", key)
        return bytes(rows[0][0]) if rows and isinstance(rows[0][0], bytes) else None

    def walk(self, name: str) -> bytes | None:
        return self.kept(_walk_key(self.epoch, name))

    def keeps(self, seq: int) -> bool:
        leaf_id = self._first_id + seq
        return bool(self._rows("SELECT 1 FROM leaf WHERE id = ? AND sealed IS NOT NULL", leaf_id))

    def of_subject(self, number: int, first: int, limit: int) -> list[int]:
        begin = self._first_id + first
        rows = self._rows(
            "SELECT id FROM leaf WHERE id >= ? AND id < ? AND subject = ? ORDER BY id",
            begin,
            min(begin + limit, self._end_id),
            number,
        )
        return [int(str(row[0])) - self._first_id for row in rows]

    def number_of(self, subject: str) -> int | None:
        if self._vault is None:
            raise StorageError("the vault is not open: subjects cannot be told apart")
        return self._vault.number_of(subject)

    def subject_of(self, seq: int) -> int | None:
        rows = self._rows("SELECT subject FROM leaf WHERE id = ?", self._first_id + seq)
        number = rows[0][0] if rows else None
        return number if isinstance(number, int) else None

    def held(self, seq: int) -> bool:
        if not self.holds():
            return False
        return self._held.covers(self.subject_of(seq))

    def holds(self) -> str:
        return self._held.digest

    @cached_property
    def _held(self) -> Held:
        if self._vault is None:
            raise StorageError("the vault is not open: legal holds cannot be seen")
        return self._vault.held()

    def private(self, seq: int) -> list[str]:
        if self._vault is None:
            raise StorageError("the vault is not open: its values cannot be shown")
        leaf_id = self._first_id + seq
        rows = self._rows("SELECT hash, subject, sealed FROM leaf WHERE id = ?", leaf_id)
        for digest, subject, sealed in rows:
            if isinstance(subject, int) and isinstance(sealed, bytes):
                assert isinstance(digest, bytes)  # the table is STRICT
                return self._vault.open(leaf_id, digest, subject, sealed)
        return []


def _walk_key(epoch: int, name: str) -> str:
    return f"{WALK_KEY}.{epoch}.{name}"


def _note_walk(connection: sqlite3.Connection, epoch: int, name: str, walk: bytes) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)", (_walk_key(epoch, name), walk)
    )


class LeafDatabase:
    """A `LeafStore`: the audit room's view of the writer and of the readers."""

    def __init__(self, writer: Writer, pool: ReadPool, tail: LeafTail) -> None:
        self._writer = writer
        self._pool = pool
        self._tail = tail
        self._dangling = tail.chain.open_intents
        self._opened_size = tail.chain.size
        writer.attach(tail)

    @property
    def origin(self) -> str:
        return self._tail.chain.origin

    @property
    def epoch(self) -> int:
        return self._tail.chain.epoch

    @property
    def opened_size(self) -> int:
        return self._opened_size

    @property
    def dangling(self) -> Mapping[str, int]:
        return self._dangling

    async def append(self, prepared: Prepared) -> Appended:
        appended = await self._writer.append(prepared)
        assert appended is not None  # without a closure there is always a leaf
        return appended

    async def append_once(self, evidence: bytes, prepared: Prepared) -> Appended | None:
        digest = hashlib.sha256(evidence).digest()

        def keep(connection: sqlite3.Connection) -> object:
            cursor = connection.execute(
                "INSERT INTO evidence (digest, data) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (digest, evidence),
            )
            return True if cursor.rowcount else None

        return await self._writer.append(prepared, run=keep)

    async def forget(
        self,
        prepared: Prepared,
        seqs: Sequence[int],
        name: str,
        walk: bytes,
        *,
        epoch: int | None = None,
    ) -> Appended | None:
        whose = epoch or self.epoch
        first = whose << SEQ_BITS
        vault = self._tail.vault

        def destroy(connection: sqlite3.Connection) -> object:
            stands = held(vault.connection)
            for seq in seqs if stands.digest else ():
                query = "SELECT subject FROM leaf WHERE id = ?"
                if stands.covers(connection.execute(query, (first + seq,)).fetchone()[0]):
                    return None
            connection.executemany(
                "UPDATE leaf SET subject = NULL, sealed = NULL WHERE id = ?",
                [(first + seq,) for seq in seqs],
            )
            _note_walk(connection, whose, name, walk)
            return True

        return await self._writer.append(prepared, run=destroy)

    async def note_walk(self, name: str, walk: bytes, *, epoch: int | None = None) -> None:
        whose = epoch or self.epoch
        await self._writer.run(lambda connection: _note_walk(connection, whose, name, walk))

    async def wipe(
        self, erasing: Erasing, seqs: Sequence[int], *, epoch: int | None = None
    ) -> None:
        first = (epoch or self.epoch) << SEQ_BITS
        await self._writer.run(
            lambda connection: connection.executemany(
                "UPDATE leaf SET subject = NULL, sealed = NULL WHERE id = ? AND subject = ?",
                [(first + seq, erasing.number) for seq in seqs],
            )
        )

    async def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        def save(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO checkpoint (epoch, size, note, cosigned) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (epoch, size) DO UPDATE SET note = excluded.note, "
                "cosigned = excluded.cosigned WHERE excluded.cosigned >= cosigned",
                (self.epoch, checkpoint.size, checkpoint.note, int(checkpoint.cosigned)),
            )
            # The newest of either kind is all that anybody asks for.
            connection.execute(
                "DELETE FROM checkpoint WHERE epoch = ?1 AND size < (SELECT max(size) FROM "
                "checkpoint WHERE epoch = ?1) AND size IS NOT (SELECT max(size) FROM checkpoint "
                "WHERE epoch = ?1 AND cosigned = 1)",
                (self.epoch,),
            )

        await self._writer.run(save)

    async def note_quiet(self) -> None:
        def save(connection: sqlite3.Connection) -> None:
            value = str(self._tail.chain.quiet_before()).encode()
            connection.execute(
                "INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)",
                (f"{QUIET_KEY}.{self.epoch}", value),
            )

        await self._writer.run(save)

    async def head(self) -> TreeHead:
        def find(_: sqlite3.Connection) -> TreeHead:
            chain = self._tail.chain
            return TreeHead(chain.size, chain.root())

        return await self._writer.run(find)

    async def read(self, query: Callable[[LogReader], T], *, epoch: int | None = None) -> T:
        def snapshot(connection: sqlite3.Connection, vault: VaultReader | None) -> T:
            return query(LeafReader(connection, vault, epoch or self.epoch))

        return await asyncio.wrap_future(self._pool.submit(snapshot))
