"""Local API keys: made and revoked by the CLI, asked for by every request."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import Caller, Clock, Rng
from exclave_protocol.disclosure import b64url

from .connect import open_reader, open_writer, storage_error
from .migrations import ensure
from .migrations.vault import KIND

SECRET_BYTES = 32
_KEY = re.compile(r"exk_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_ROLE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_LABEL = 100
MAX_ROLES = 16

_NO_HASH = bytes(32)
_GRAIN_NS = 50_000_000
_REMEMBERED = 1024
"""Keys remembered at once."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """An API key as lists show it."""

    key_id: str
    label: str
    roles: tuple[str, ...]
    created_ns: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `secret` is kept nowhere: show it once."""

    key_id: str
    secret: str = field(repr=False)


def _hash(secret: str) -> bytes:
    # 256 random bits need no slow hash: there is nothing to guess.
    return hashlib.sha256(secret.encode("ascii")).digest()


class SqliteKeyRing:
    """A `ports.KeyRing` that notices every change of the file, so that nothing is stale.

    Found keys are remembered under their hash for as long as vault.db and its write-ahead log
    are untouched: two `stat` calls instead of a query, a tenth of a request's overhead. A file
    time has the kernel's tick for its grain (up to 10 ms), so nothing is remembered that was
    read within `_GRAIN_NS` of a change: a second change in that tick would not show.
    """

    def __init__(self, path: Path) -> None:
        """Raises: StorageError."""
        self._files = (str(path), f"{path}-wal")
        self._seen: dict[bytes, Caller] = {}
        self._state: tuple[int, ...] = ()
        try:
            self._connection = open_reader(path)
        except sqlite3.Error as error:
            raise storage_error(error, "open the API keys") from error

    def authenticate(self, secret: str) -> Caller | None:
        """Raises: StorageError when the database cannot be read."""
        match = _KEY.fullmatch(secret)
        if match is None:
            return None
        hashed = _hash(secret)
        state = self._file_state()
        if state != self._state:
            self._seen.clear()
            self._state = state
        # By the hash of 256 random bits: how long the look-up takes tells nothing of a key.
        known = self._seen.get(hashed)
        if known is not None:
            return known
        caller = self._look_up(match[1], hashed)
        if caller is not None and time.time_ns() - max(state) > _GRAIN_NS:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[hashed] = caller
        return caller

    def _look_up(self, key_id: str, hashed: bytes) -> Caller | None:
        try:
            rows = self._connection.execute(
                "SELECT hash, roles FROM api_key WHERE id = ? AND revoked_ns IS NULL", (key_id,)
            ).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, "read the API keys") from error
        stored, roles = rows[0] if rows else (_NO_HASH, "[]")
        if not hmac.compare_digest(stored, hashed) or not rows:
            return None
        return Caller(key_id, tuple(json.loads(roles)))

    def _file_state(self) -> tuple[int, ...]:
        """Times of the last change and sizes; 0 for a log that is not there."""
        state: list[int] = []
        for path in self._files:
            try:
                found = os.stat(path)
            except OSError:
                state += (0, 0)
            else:
                state += (found.st_mtime_ns, found.st_size)
        return tuple(state)

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()


def create_key(
    home: Path, *, roles: Sequence[str], label: str = "", clock: Clock, rng: Rng
) -> NewKey:
    """Make a key; a running agent takes it from the next request on. Blocking.

    The home's files are made first where this is the first thing done in it.

    Raises: BadRequest (label, roles), StorageForeign, StorageFull, StorageError.
    """
    if len(label) > MAX_LABEL or not label.isprintable():
        raise BadRequest(f"label: not at most {MAX_LABEL} printable characters", param="label")
    if not 1 <= len(roles) <= MAX_ROLES or not all(map(_ROLE.fullmatch, roles)):
        raise BadRequest(
            f"roles: not 1 to {MAX_ROLES} names of lower-case letters, digits and '-'",
            param="roles",
        )
    from .home import prepare  # it needs the key ring of this module

    prepare(home, rng)
    key_id = rng.token(4).hex()
    secret = f"exk_{key_id}_{b64url(rng.token(SECRET_BYTES))}"
    _write(
        home,
        "INSERT INTO api_key (id, label, roles, hash, created_ns) VALUES (?, ?, ?, ?, ?)",
        (key_id, label, json.dumps(list(roles)), _hash(secret), clock.now_ns()),
    )
    return NewKey(key_id, secret)


def revoke_key(home: Path, key_id: str, *, clock: Clock) -> None:
    """Refuse the key from now on; again is no error. Blocking.

    Raises: BadRequest when there is no such key; StorageFull, StorageError.
    """
    changed = _write(
        home,
        "UPDATE api_key SET revoked_ns = coalesce(revoked_ns, ?) WHERE id = ?",
        (clock.now_ns(), key_id),
    )
    if not changed:
        raise BadRequest(
            "no API key has that id; `exclave-agent key list` shows them", param="key_id"
        )


def list_keys(home: Path) -> list[KeyInfo]:
    """Every key ever made, oldest first. Blocking. Raises: StorageForeign, StorageError."""
    if not _exists(home):
        return []
    try:
        with closing(open_reader(home / KIND.name)) as connection:
            rows = connection.execute(
                "SELECT id, label, roles, created_ns, revoked_ns IS NOT NULL FROM api_key "
                "ORDER BY created_ns, id"
            ).fetchall()
    except sqlite3.Error as error:
        raise storage_error(error, "read the API keys") from error
    return [KeyInfo(r[0], r[1], tuple(json.loads(r[2])), r[3], bool(r[4])) for r in rows]


def roles_of(home: Path, key_id: str) -> tuple[str, ...] | None:
    """An active key's roles; None: there is none of that id. Blocking. Raises: as `list_keys`."""
    active = (key for key in list_keys(home) if key.key_id == key_id and not key.revoked)
    return next((key.roles for key in active), None)


def _exists(home: Path) -> bool:
    """Whether keys can be there; a file that is there must be ours.

    The file is never made here: a vault without its own key would be taken for a loss.
    """
    if not (home / KIND.name).exists():
        return False
    ensure(home / KIND.name, KIND)
    return True


def _write(home: Path, sql: str, values: tuple[object, ...]) -> int:
    """A transaction of its own, beside the agent's writer; how many rows it changed."""
    if not _exists(home):
        return 0
    try:
        with closing(open_writer(home / KIND.name)) as connection:
            return connection.execute(sql, values).rowcount
    except sqlite3.IntegrityError as error:
        raise StorageError("an API key of that id exists; try again") from error
    except sqlite3.Error as error:
        raise storage_error(error, "write the API keys") from error
