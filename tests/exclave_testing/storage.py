"""Storage in memory that keeps the same promises as the real one, and fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from exclave_agent.errors import StorageError
from exclave_agent.ports import Caller, KeptCompletion, LedgerEntry

T = TypeVar("T")


class FakeStateStore:
    """A StateStore in a dictionary. Set `failure` to have writes refused."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failure: StorageError | None = None

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def put(self, key: str, value: bytes | None) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


class FakeKeyRing:
    """A KeyRing over a plain table: `keys[secret] = Caller(...)`."""

    def __init__(self, keys: dict[str, Caller] | None = None) -> None:
        self.keys: dict[str, Caller] = dict(keys or {})

    def authenticate(self, secret: str) -> Caller | None:
        return self.keys.get(secret)


class FakeLedger:
    """A Ledger in a dictionary; `FakeAuditLog` adds to its own what rides on drafts."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """What storage does in a leaf's transaction."""
        for entry in entries:
            tokens, money = self.sums.get((entry.account, entry.period), (0, 0))
            key = (entry.account, entry.period)
            self.sums[key] = (tokens + entry.tokens, money + entry.money_micro)

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        await asyncio.sleep(0)
        return dict(self.sums)

    async def forget(self, before: Sequence[str]) -> None:
        await asyncio.sleep(0)
        self.sums = {key: sums for key, sums in self.sums.items() if key[1] not in before}


class FakeCompletionStore:
    """A CompletionStore in a dictionary. Set `failure` to have every call refused; `erase` a
    subject to make its values unreadable, as destroying its key does."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[KeptCompletion, str, bytes, bytes]] = {}
        self.failure: StorageError | None = None

    def erase(self, subject: str) -> None:
        """What is kept of it now can no longer be read."""
        changed = {
            key: (kept, "", value, vector) if owner == subject else (kept, owner, value, vector)
            for key, (kept, owner, value, vector) in self.rows.items()
        }
        self.rows = changed

    def tag(self, digest: bytes) -> bytes:
        return hashlib.sha256(b"a key" + digest).digest()

    async def index(self) -> Sequence[KeptCompletion]:
        await self._called()
        return [row[0] for row in self.rows.values()]

    async def get(self, key: bytes) -> bytes | None:
        await self._called()
        row = self.rows.get(key)
        return row[2] if row is not None and row[1] else None

    async def put(
        self,
        kept: KeptCompletion,
        subject: str,
        value: bytes,
        vector: bytes = b"",
        *,
        drop: Sequence[bytes] = (),
    ) -> None:
        await self._called()
        for key in (kept.key, *drop):
            self.rows.pop(key, None)
        self.rows[kept.key] = (kept, subject, value, vector)

    async def similar(
        self, scope: bytes, limit: int, judge: Callable[[Iterator[tuple[bytes, bytes]]], T]
    ) -> T:
        await self._called()
        newest = [row for row in reversed(self.rows.values()) if row[0].scope == scope and row[3]]
        return judge((row[0].key, row[3]) for row in newest[:limit] if row[1])

    async def drop(self, keys: Sequence[bytes]) -> None:
        await self._called()
        for key in keys:
            self.rows.pop(key, None)

    async def sweep(self, now_ns: int) -> Sequence[bytes]:
        await self._called()
        gone = [key for key, row in self.rows.items() if not row[1] or row[0].expires_ns <= now_ns]
        await self.drop(gone)
        return gone

    async def _called(self) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
