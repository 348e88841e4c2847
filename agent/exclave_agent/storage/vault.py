"""The vault: private values under keys of their own, so that destroying a key erases them.

Every subject has an AES-256-GCM key, wrapped by the vault's master key, which lies in a file
beside the agent's identity. A value's row MUST be durable before the leaf that commits to it.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from exclave_agent.audit.chain import Sealed
from exclave_agent.errors import StorageError, StorageForeign
from exclave_agent.ports import Rng

from .connect import storage_error
from .migrations import sync_directory
from .migrations.vault import ORDINAL_BITS

KEY_BYTES = 32
NONCE_BYTES = 12  # GCM's own length; random, and one key seals far fewer than 2**32 values
MAX_FIELDS = 1 << ORDINAL_BITS
CACHED_KEYS = 1024
MAX_ROWS = 64
"""Rows of one INSERT."""

_PROOF = b"exclave vault master key v1"
_SUBJECT = b"exclave vault subject key v1\x00"
_VALUE = b"exclave vault value v1\x00"
_KEPT = "SELECT id, digest, subject, sealed FROM disclosure WHERE id >= ? AND id < ? ORDER BY id"


class MasterKey:
    """The key that wraps the subjects' keys; 32 bytes in a file that only the agent reads."""

    def __init__(self, secret: bytes) -> None:
        self._aead = AESGCM(secret)
        self._tag_key = hmac.digest(secret, b"exclave vault subject tag v1", "sha256")

    @classmethod
    def load(cls, path: Path) -> MasterKey:
        """Raises: StorageForeign when the file is missing or is not a key."""
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            raise StorageForeign(
                "the vault's key file is missing; without it no value in the vault can be "
                "read: restore identity/vault.key from a backup"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot read the vault's key file: {error.strerror}") from error
        if len(secret) != KEY_BYTES:
            raise StorageForeign(
                f"the vault's key file holds {len(secret)} bytes where {KEY_BYTES} are expected: "
                "restore identity/vault.key from a backup"
            )
        return cls(secret)

    @classmethod
    def create(cls, path: Path, rng: Rng) -> MasterKey:
        """Make the key file, durable when this returns. Raises: StorageError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        secret = rng.token(KEY_BYTES)
        try:
            draft.unlink(missing_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(fd, secret)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(draft, path)
            sync_directory(path.parent)
        except OSError as error:
            raise StorageError(f"cannot create the vault's key file: {error.strerror}") from error
        return cls(secret)

    def seal(self, rng: Rng, value: bytes, context: bytes) -> bytes:
        """Nonce and ciphertext, bound to `context`."""
        nonce = rng.token(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, value, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The value. Raises: InvalidTag."""
        return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)

    def tag(self, subject: str) -> bytes:
        """A subject's name as the vault stores it: useless without the key."""
        return hmac.digest(self._tag_key, subject.encode(), "sha256")


def check_master(connection: sqlite3.Connection, master: MasterKey, rng: Rng) -> None:
    """Refuse a vault of another key; leave our proof in a new one.

    Raises: StorageForeign, sqlite3.Error.
    """
    row = connection.execute("SELECT proof FROM master WHERE id = 1").fetchone()
    if row is None:
        proof = master.seal(rng, _PROOF, _PROOF)
        connection.execute("INSERT INTO master (id, proof) VALUES (1, ?)", (proof,))
        return
    try:
        master.open(row[0], _PROOF)
    except InvalidTag:
        raise StorageForeign(
            "the vault was sealed with another key than identity/vault.key: restore both from "
            "the same backup"
        ) from None


def _context(leaf_id: int, digest: str, tag: bytes) -> bytes:
    """What a sealed value is bound to: moved to another row, it no longer opens."""
    return b"%s%d %s %s" % (_VALUE, leaf_id, digest.encode(), tag)


_Key = tuple[int, bytes, AESGCM]
"""A subject's row id, tag and key."""


class VaultWriter:
    """Seals values in the writer's thread."""

    def __init__(self, connection: sqlite3.Connection, master: MasterKey, rng: Rng) -> None:
        self._connection = connection
        self._master = master
        self._rng = rng
        self._keys: dict[str, _Key] = {}
        insert = "INSERT INTO disclosure (id, subject, digest, sealed) VALUES (?,?,?,?)"
        self._statements = [insert + ",(?,?,?,?)" * more for more in range(MAX_ROWS)]

    def write(self, first_id: int, sealed: Sequence[Sealed]) -> None:
        """Make the values of leaves durable, `first_id` being the row id of seq 0's leaf.

        Raises: StorageError, sqlite3.Error; then none is kept.
        """
        fresh: dict[str, _Key] = {}
        rows: list[object] = []
        try:
            count = sum(self._seal(first_id + leaf.seq, leaf, fresh, rows) for leaf in sealed)
            if count and count <= MAX_ROWS and not fresh:
                # One statement is one transaction, and one turn of the interpreter's lock.
                self._connection.execute(self._statements[count - 1], rows)
            elif count:
                self._write_many(rows, count)
        except BaseException:
            for subject in fresh:
                self._keys.pop(subject, None)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _write_many(self, rows: list[object], count: int) -> None:
        execute = self._connection.execute
        if not self._connection.in_transaction:  # a new subject's key opened one already
            execute("BEGIN IMMEDIATE")
        for start in range(0, count, MAX_ROWS):
            n = min(MAX_ROWS, count - start)
            execute(self._statements[n - 1], rows[start * 4 : (start + n) * 4])
        execute("COMMIT")

    def _seal(
        self,
        leaf_id: int,
        leaf: Sealed,
        fresh: dict[str, _Key],
        rows: list[object],
    ) -> int:
        disclosures = leaf.prepared.disclosures
        if not disclosures:
            return 0
        number, tag, aead = self._key(leaf.prepared.subject, fresh)
        for ordinal, disclosure in enumerate(disclosures):
            digest = disclosure.digest
            nonce = self._rng.token(NONCE_BYTES)
            value = aead.encrypt(nonce, disclosure.encoded.encode(), _context(leaf_id, digest, tag))
            rows += (leaf_id << ORDINAL_BITS | ordinal, number, digest, nonce + value)
        return len(disclosures)

    def _key(self, subject: str, fresh: dict[str, _Key]) -> _Key:
        """The subject's key: cached, stored, or made in a transaction that `write` commits."""
        known = self._keys.get(subject)
        if known is not None:
            return known
        execute = self._connection.execute
        tag = self._master.tag(subject)
        row = execute("SELECT id, wrapped FROM subject WHERE tag = ?", (tag,)).fetchone()
        if row is None:
            if not self._connection.in_transaction:
                execute("BEGIN IMMEDIATE")
            secret = self._rng.token(KEY_BYTES)
            wrapped = self._master.seal(self._rng, secret, _SUBJECT + tag)
            number = execute(
                "INSERT INTO subject (tag, wrapped) VALUES (?, ?)", (tag, wrapped)
            ).lastrowid
            assert number is not None  # an INSERT that returned has a row
        else:
            number, secret = row[0], unwrap(self._master, row[1], tag)
        if len(self._keys) >= CACHED_KEYS:
            self._keys.clear()
        entry = number, tag, AESGCM(secret)
        self._keys[subject] = entry
        if row is None:
            fresh[subject] = entry
        return entry

    def discard_from(self, leaf_id: int, end: int) -> int:
        """Delete the rows of leaves that were never committed; how many. Raises: sqlite3.Error."""
        cursor = self._connection.execute(
            "DELETE FROM disclosure WHERE id >= ? AND id < ?",
            (leaf_id << ORDINAL_BITS, end << ORDINAL_BITS),
        )
        return cursor.rowcount


def unwrap(master: MasterKey, wrapped: bytes, tag: bytes) -> bytes:
    """A subject's key. Raises: StorageError "vault_damaged"."""
    try:
        return master.open(wrapped, _SUBJECT + tag)
    except InvalidTag:
        raise StorageError(
            "a subject's key in the vault is damaged: restore the home from a backup",
            code="vault_damaged",
        ) from None


class VaultReader:
    """Opens values again; blocking, on a read-only connection of its own."""

    def __init__(self, connection: sqlite3.Connection, master: MasterKey) -> None:
        self._connection = connection
        self._master = master

    def open(self, leaf_id: int) -> list[str]:
        """The encoded disclosures of one leaf; an erased subject's are absent.

        Raises: StorageError ("vault_damaged" when a row does not open).
        """
        bounds = leaf_id << ORDINAL_BITS, (leaf_id + 1) << ORDINAL_BITS
        try:
            rows = self._connection.execute(_KEPT, bounds).fetchall()
            opened = [self._open_row(leaf_id, *row[1:]) for row in rows]
        except sqlite3.Error as error:
            raise storage_error(error, "read the vault") from error
        return [text for text in opened if text is not None]

    def _open_row(self, leaf_id: int, digest: str, subject: int, sealed: bytes) -> str | None:
        row = self._connection.execute(
            "SELECT tag, wrapped FROM subject WHERE id = ?", (subject,)
        ).fetchone()
        if row is None:
            return None
        tag, wrapped = row
        aead = AESGCM(unwrap(self._master, wrapped, tag))
        context = _context(leaf_id, digest, tag)
        try:
            value = aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except InvalidTag:
            raise StorageError(
                "a value in the vault was altered or moved: restore the home from a backup",
                code="vault_damaged",
            ) from None
        return value.decode("ascii")
