"""The vault: private values under keys of their own, so that destroying a key erases them.

Every subject has an AES-256-GCM key in vault.db, wrapped by the vault's master key, which lies
in a file beside the agent's identity. A leaf's values are sealed under it and stored in the
leaf's own row: both are there after one commit, or neither (docs/adr/0005). A subject's key
MUST be durable before anything is sealed under it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from exclave_agent import sealing
from exclave_agent.audit.chain import Sealed
from exclave_agent.disk import sync_folder
from exclave_agent.errors import StorageError, StorageForeign
from exclave_agent.ports import Rng

from .connect import storage_error
from .subjects import Held, held

KEY_BYTES = 32
NONCE_BYTES = 12  # GCM's own length; random, and one key seals far fewer than 2**32 values
CACHED_KEYS = 1024
LEAST_SEALED = 512
"""Bytes of the shortest values as they are sealed."""

_PROOF = b"exclave vault master key v1"
_SUBJECT = b"exclave vault subject key v1\x00"
_VALUES = b"exclave vault values v1\x00"
_SEPARATOR = "~"  # between disclosures, as in RFC 9901; never within one


def padded(values: bytes) -> bytes:
    """A length that tells little of how long the values are: whoever has the file sees it.

    Padme (Nikitin et al., PETS 2019): at most 12 % longer, and O(log log n) bits leak.
    """
    length = max(len(values), LEAST_SEALED)
    exponent = length.bit_length() - 1
    low = exponent - exponent.bit_length()
    mask = (1 << low) - 1
    return values.ljust((length + mask) & ~mask, _SEPARATOR.encode())


class MasterKey:
    """The key that wraps the subjects' keys; 32 bytes in a file that only the agent reads."""

    def __init__(self, secret: bytes) -> None:
        self._aead = AESGCM(secret)
        self._tag_key = hmac.digest(secret, b"exclave vault subject tag v1", "sha256")
        self._index_key = hmac.digest(secret, b"exclave completion index v1", "sha256")

    @classmethod
    def load(cls, path: Path) -> MasterKey:
        """Raises: StorageForeign when the file is missing or is not a key, IdentityError
        ("identity_sealed")."""
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            raise StorageForeign(
                "the vault's key file is missing; without it no value in the vault can be "
                "read: restore identity/vault.key from a backup"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot read the vault's key file: {error.strerror}") from error
        secret = sealing.current().open(path.name, secret)
        if len(secret) != KEY_BYTES:
            raise StorageForeign(
                f"the vault's key file holds {len(secret)} bytes where {KEY_BYTES} are expected: "
                "restore identity/vault.key from a backup"
            )
        return cls(secret)

    @classmethod
    def create(cls, path: Path, rng: Rng) -> MasterKey:
        """Make the key file, sealed where this process can; durable when this returns.

        Raises: StorageError, IdentityError ("identity_sealed").
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        secret = rng.token(KEY_BYTES)
        try:
            draft.unlink(missing_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(fd, sealing.current().seal(path.name, secret))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(draft, path)
            sync_folder(path.parent)
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

    def index(self, digest: bytes) -> bytes:
        """A digest as the index of kept answers stores it: no dictionary finds what it is of."""
        return hmac.digest(self._index_key, digest, "sha256")


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
    except (InvalidTag, ValueError):
        raise StorageForeign(
            "the vault was sealed with another key than identity/vault.key: restore both from "
            "the same backup"
        ) from None


def _context(leaf_id: int, leaf_hash: bytes, tag: bytes) -> bytes:
    """What sealed values are bound to: moved to another row, they no longer open."""
    return b"%s%d %s %s" % (_VALUES, leaf_id, leaf_hash, tag)


_Key = tuple[int, bytes, AESGCM]
"""A subject's row id, tag and key."""


class VaultWriter:
    """Seals values in the writer's thread."""

    def __init__(self, connection: sqlite3.Connection, master: MasterKey, rng: Rng) -> None:
        self.connection = connection
        """For the writer's thread alone."""
        self.master = master
        self.rng = rng
        self._keys: dict[str, _Key] = {}
        self._numbered: dict[int, _Key] = {}
        """Of one batch: a number may be another subject's, later."""

    def forget(self, subject: str) -> None:
        """Its key was destroyed: whatever comes next of it has another."""
        self._keys.pop(subject, None)

    def ready(self, subjects: Iterable[str]) -> None:
        """Have a durable key for each subject; new ones are made in one transaction.

        Raises: StorageError "vault_damaged", sqlite3.Error; then no key was made.
        """
        unknown = {subject for subject in subjects if subject not in self._keys}
        if not unknown:
            return
        if len(self._keys) >= CACHED_KEYS:
            # What this batch needs is looked up again, not forgotten.
            unknown |= set(subjects)
            self._keys.clear()
        found: dict[str, _Key] = {}
        execute = self.connection.execute
        try:
            for subject in sorted(unknown):
                found[subject] = self._find(subject) or self._make(subject)
            if self.connection.in_transaction:
                execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                execute("ROLLBACK")
            raise
        self._keys.update(found)

    def ready_numbers(self, numbers: Iterable[int]) -> None:
        """Look up the keys of these subjects; none is made: one that is gone was destroyed.

        Raises: StorageError "vault_damaged", sqlite3.Error.
        """
        self._numbered.clear()
        for number in numbers:
            row = self.connection.execute(
                "SELECT tag, wrapped FROM subject WHERE id = ?", (number,)
            ).fetchone()
            if row is not None and row[1]:
                key = AESGCM(unwrap(self.master, row[1], row[0]))
                self._numbered[number] = (number, row[0], key)

    def _find(self, subject: str) -> _Key | None:
        tag = self.master.tag(subject)
        row = self.connection.execute(
            "SELECT id, wrapped FROM subject WHERE tag = ?", (tag,)
        ).fetchone()
        return None if row is None else (row[0], tag, AESGCM(unwrap(self.master, row[1], tag)))

    def _make(self, subject: str) -> _Key:
        execute = self.connection.execute
        if not self.connection.in_transaction:
            execute("BEGIN IMMEDIATE")
        tag, secret = self.master.tag(subject), self.rng.token(KEY_BYTES)
        wrapped = self.master.seal(self.rng, secret, _SUBJECT + tag)
        number = execute(
            "INSERT INTO subject (tag, wrapped) VALUES (?, ?)", (tag, wrapped)
        ).lastrowid
        assert number is not None  # an INSERT that returned has a row
        return number, tag, AESGCM(secret)

    def seal(self, leaf_id: int, leaf: Sealed) -> tuple[int | None, bytes | None]:
        """Subject's number and sealed values of a leaf; its subject's key is `ready`."""
        disclosures = leaf.prepared.disclosures
        if not disclosures:
            return None, None
        whose = leaf.prepared.subject_of
        found = self._keys[leaf.prepared.subject] if whose is None else self._numbered.get(whose)
        if found is None:
            return None, None  # erased meanwhile, and these with it
        number, tag, aead = found
        values = padded(_SEPARATOR.join(item.encoded for item in disclosures).encode())
        nonce = self.rng.token(NONCE_BYTES)
        return number, nonce + aead.encrypt(nonce, values, _context(leaf_id, leaf.hash, tag))

    def seal_value(self, subject: str, value: bytes, context: bytes) -> tuple[int, bytes]:
        """Subject's number and a sealed value that is no leaf's; its subject's key is `ready`."""
        number, tag, aead = self._keys[subject]
        nonce = self.rng.token(NONCE_BYTES)
        return number, nonce + aead.encrypt(nonce, value, context + tag)

    def key_print(self, number: int) -> bytes | None:
        """Tells one subject's key from another of the same number; None: it was destroyed.

        Raises: sqlite3.Error.
        """
        row = self.connection.execute(
            "SELECT wrapped FROM subject WHERE id = ?", (number,)
        ).fetchone()
        return None if row is None else hashlib.sha256(row[0]).digest()[:16]


def unwrap(master: MasterKey, wrapped: bytes, tag: bytes) -> bytes:
    """A subject's key. Raises: StorageError "vault_damaged"."""
    try:
        return master.open(wrapped, _SUBJECT + tag)
    except (InvalidTag, ValueError):  # ValueError: cut too short to hold a nonce
        raise StorageError(
            "a subject's key in the vault is damaged: restore the home from a backup",
            code="vault_damaged",
        ) from None


class VaultReader:
    """Opens values again; blocking, on a read-only connection of its own."""

    def __init__(self, connection: sqlite3.Connection, master: MasterKey) -> None:
        self._connection = connection
        self._master = master

    def open(self, leaf_id: int, leaf_hash: bytes, subject: int, sealed: bytes) -> list[str]:
        """The encoded disclosures of one leaf; none when its subject's key was destroyed.

        Raises: StorageError ("vault_damaged" when they do not open).
        """
        found = self._key(subject)
        if found is None:
            return []
        tag, aead = found
        context = _context(leaf_id, leaf_hash, tag)
        try:
            values = aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise StorageError(
                "a record's values were altered or moved: restore the home from a backup",
                code="vault_damaged",
            ) from None
        return values.decode("ascii").rstrip(_SEPARATOR).split(_SEPARATOR)

    def number_of(self, subject: str) -> int | None:
        """A subject's number; None when nothing is kept of it. Raises: StorageError."""
        try:
            row = self._connection.execute(
                "SELECT id FROM subject WHERE tag = ?", (self._master.tag(subject),)
            ).fetchone()
        except sqlite3.Error as error:
            raise storage_error(error, "read the vault") from error
        return None if row is None else int(row[0])

    def _key(self, subject: int) -> tuple[bytes, AESGCM] | None:
        """A subject's tag and key; None when the key was destroyed. Raises: StorageError."""
        try:
            row = self._connection.execute(
                "SELECT tag, wrapped FROM subject WHERE id = ?", (subject,)
            ).fetchone()
        except sqlite3.Error as error:
            raise storage_error(error, "read the vault") from error
        if row is None or not row[1]:  # a destroyed key's row stays until its values are gone
            return None
        tag, wrapped = row
        return tag, AESGCM(unwrap(self._master, wrapped, tag))

    def held(self) -> Held:
        """What legal holds stand on. Raises: StorageError."""
        return held(self._connection)

    def open_value(self, subject: int, sealed: bytes, context: bytes) -> bytes | None:
        """A value of `VaultWriter.seal_value`; None when its key was destroyed, or when it does
        not open: what it was made of is computed again, so nothing is lost.

        Raises: StorageError.
        """
        return self.opener(subject)(sealed, context)

    def opener(self, subject: int) -> Callable[[bytes, bytes], bytes | None]:
        """As `open_value`, for many values of one subject: the key is looked up once."""
        found = self._key(subject)
        if found is None:
            return lambda sealed, context: None
        tag, aead = found

        def opened(sealed: bytes, context: bytes) -> bytes | None:
            try:
                return aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context + tag)
            except (InvalidTag, ValueError):
                return None

        return opened
