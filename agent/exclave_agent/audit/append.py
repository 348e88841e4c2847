"""The log as the agent's rooms append to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exclave_agent.errors import LogFrozen, StorageError, StorageFull
from exclave_agent.ports import Appended, Clock, LeafDraft, Rng
from exclave_protocol.leaf import LeafType

from . import drafts
from .chain import prepare
from .store import LeafStore

_DECISIONS = frozenset({LeafType.INTENT, LeafType.RESULT})


class Log:
    """A `ports.AuditLog`.

    A leaf and its values MUST be on disk when `append` returns. A caller that is cancelled
    while it waits does not take its leaf back: it is written all the same.
    """

    def __init__(self, store: LeafStore, clock: Clock, rng: Rng) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._grown = asyncio.Event()
        self._refused = 0
        self._refused_since = 0
        self.frozen: LogFrozen | None = None
        """While it is set nothing is decided: no INTENT and no RESULT is taken."""
        self.size = store.opened_size
        """Leaves known to be durable."""

    @property
    def store(self) -> LeafStore:
        """Where the leaves are."""
        return self._store

    @property
    def grown(self) -> asyncio.Event:
        """Set after each append; whoever waits for it clears it."""
        return self._grown

    async def append(self, draft: LeafDraft) -> Appended:
        if self.frozen is not None and draft.type in _DECISIONS:
            raise self.frozen
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        try:
            appended = await self._store.append(prepared)
        except StorageFull:
            self._refused_since = self._refused_since or prepared.time_ns
            self._refused += 1
            raise
        self._landed(appended)
        if self._refused:
            await self._recovered()
        return appended

    async def _recovered(self) -> None:
        """There is room again: say how much was refused meanwhile."""
        refused, since = self._refused, self._refused_since
        self._refused = self._refused_since = 0
        draft = drafts.storage_back(refused, since)
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        try:
            self._landed(await self._store.append(prepared))
        except StorageError:
            # The caller's own leaf is durable. Full again: the next that is written says it.
            self._refused, self._refused_since = self._refused + refused, since

    async def append_once(self, evidence: bytes, draft: LeafDraft) -> Appended | None:
        """Record something at most once, however often it is seen, restarts included.

        Raises: StorageFull, StorageError.
        """
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        appended = await self._store.append_once(evidence, prepared)
        if appended is not None:
            self._landed(appended)
        return appended

    async def forget(
        self,
        draft: LeafDraft,
        seqs: Sequence[int],
        name: str,
        walk: bytes,
        *,
        epoch: int | None = None,
    ) -> Appended | None:
        """Destroy the values of these leaves and record it; see `LeafStore.forget`.

        Raises: StorageFull, StorageError; then all of them are still there.
        """
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        appended = await self._store.forget(prepared, seqs, name, walk, epoch=epoch)
        if appended is not None:
            self._landed(appended)
        return appended

    def _landed(self, appended: Appended) -> None:
        self.size = max(self.size, appended.seq + 1)
        self._grown.set()
