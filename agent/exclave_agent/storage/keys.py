"""Local API keys: made and revoked by the CLI, asked for by every request."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import Caller, Clock, Rng
from exclave_protocol.disclosure import b64url

from .connect import open_reader, open_writer, storage_error

SECRET_BYTES = 32
_KEY = re.compile(r"exk_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_ROLE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_NAME = 100
MAX_ROLES = 16

_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """An API key as lists show it; the secret itself is kept nowhere."""

    key_id: str
    name: str
    roles: tuple[str, ...]
    created_ns: int
    revoked_ns: int | None


def _hash(secret: str) -> bytes:
    # 256 random bits need no slow hash: there is nothing to guess.
    return hashlib.sha256(secret.encode("ascii")).digest()


class SqliteKeyRing:
    """A `ports.KeyRing` that asks the database on every call, so that nothing is stale."""

    def __init__(self, path: Path) -> None:
        """Raises: StorageError."""
        try:
            self._connection = open_reader(path)
        except sqlite3.Error as error:
            raise storage_error(error, "open the API keys") from error

    def authenticate(self, secret: str) -> Caller | None:
        """About ten microseconds. Raises: StorageError when the database cannot be read."""
        match = _KEY.fullmatch(secret)
        if match is None:
            return None
        try:
            rows = self._connection.execute(
                "SELECT hash, roles FROM api_key WHERE id = ? AND revoked_ns IS NULL", (match[1],)
            ).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, "read the API keys") from error
        stored, roles = rows[0] if rows else (_NO_HASH, "[]")
        if not hmac.compare_digest(stored, _hash(secret)) or not rows:
            return None
        return Caller(match[1], tuple(json.loads(roles)))

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()


class KeyRegistry:
    """Makes, lists and revokes keys; safe beside a running agent, which sees it at once."""

    def __init__(self, path: Path, clock: Clock, rng: Rng) -> None:
        """`path`: the home's state.db, already made (see `home.prepare`)."""
        self._path = path
        self._clock = clock
        self._rng = rng

    def create(self, name: str, roles: Sequence[str]) -> tuple[KeyInfo, str]:
        """A new key and its secret, which is shown once.

        Raises: BadRequest (name, role), StorageFull, StorageError.
        """
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise BadRequest(f"name: not 1 to {MAX_NAME} printable characters", param="name")
        if not 1 <= len(roles) <= MAX_ROLES or not all(map(_ROLE.fullmatch, roles)):
            raise BadRequest(
                f"roles: not 1 to {MAX_ROLES} names of lower-case letters, digits and '-'",
                param="roles",
            )
        key_id = self._rng.token(4).hex()
        secret = f"exk_{key_id}_{b64url(self._rng.token(SECRET_BYTES))}"
        info = KeyInfo(key_id, name, tuple(roles), self._clock.now_ns(), None)
        self._write(
            "INSERT INTO api_key (id, name, roles, hash, created_ns) VALUES (?, ?, ?, ?, ?)",
            (key_id, name, json.dumps(list(roles)), _hash(secret), info.created_ns),
        )
        return info, secret

    def revoke(self, key_id: str) -> None:
        """Refuse the key from now on. Raises: BadRequest when there is none; StorageError."""
        changed = self._write(
            "UPDATE api_key SET revoked_ns = coalesce(revoked_ns, ?) WHERE id = ?",
            (self._clock.now_ns(), key_id),
        )
        if not changed:
            raise BadRequest("no API key has that id; `key list` shows them", param="key_id")

    def list(self) -> list[KeyInfo]:
        """Every key ever made, oldest first. Raises: StorageError."""
        try:
            with closing(open_reader(self._path)) as connection:
                rows = connection.execute(
                    "SELECT id, name, roles, created_ns, revoked_ns FROM api_key "
                    "ORDER BY created_ns, id"
                ).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, "read the API keys") from error
        return [KeyInfo(r[0], r[1], tuple(json.loads(r[2])), r[3], r[4]) for r in rows]

    def _write(self, sql: str, values: tuple[object, ...]) -> int:
        try:
            with closing(open_writer(self._path)) as connection:
                return connection.execute(sql, values).rowcount
        except sqlite3.IntegrityError as error:
            raise StorageError("an API key of that id exists; try again") from error
        except sqlite3.Error as error:
            raise storage_error(error, "write the API keys") from error
