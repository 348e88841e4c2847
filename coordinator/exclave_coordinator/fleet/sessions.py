"""The live sessions: one latest-only slot per kind and agent, no queues, nothing that waits.

Level-triggered: what an agent shall run is read from the registry at the moment of sending, so
a change that arrives while a send is under way is simply the next thing sent.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from exclave_coordinator.errors import Refused, StorageError, TooMuch
from exclave_coordinator.fleet.registry import Member, Registry
from exclave_coordinator.ports import (
    ACTIVE,
    AgentKey,
    Clock,
    Counts,
    Desired,
    Observed,
    Presence,
    Rng,
    Store,
    Tx,
)

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""How long observations gather before they are written together."""
SWEEP_SECONDS = 5.0
"""How often sessions are checked for expired certificates."""

EVICTED = 1
BANNED = 2
EXPIRED = 3
DRAINING = 4
REPLACED = 5
"""Numbers of exclave.v1.Ended.Reason."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session ends; `retry_after` in seconds, 0: the agent's own backoff."""

    reason: int
    retry_after: int = 0


class Session:
    """One agent's stream. `next` is for the task that writes; all else may be called by any."""

    __slots__ = ("_closed", "_ended", "_sent", "_wake", "fault", "member", "not_after")

    def __init__(self, member: Member, not_after: int) -> None:
        self.member = member
        self.not_after = not_after
        self.fault: Refused | None = None
        """What the agent sent wrong; set before `close`."""
        self._wake = asyncio.Event()
        self._sent: Desired | None = None
        self._ended: Ended | None = None
        self._closed = False

    def touch(self) -> None:
        """What is desired may have changed."""
        self._wake.set()

    def end(self, ended: Ended) -> None:
        """Ask the writer to say why and stop. The first reason stands."""
        if self._ended is None:
            self._ended = ended
        self._wake.set()

    def close(self) -> None:
        """The agent hung up."""
        self._closed = True
        self._wake.set()

    @property
    def ended(self) -> Ended | None:
        """Why this session ends, once it does."""
        return self._ended

    async def next(self) -> Desired | Ended | None:
        """The next thing to send; an Ended is the last, None: the agent is gone."""
        while True:
            if self._ended is not None:
                return self._ended
            if self._closed:
                return None
            desired = self.member.desired
            if desired != self._sent:
                self._sent = desired
                return desired
            self._wake.clear()
            await self._wake.wait()


class Sessions:
    """All live sessions, and the collector that writes what they observe."""

    def __init__(
        self, store: Store, registry: Registry, *, limit: int, clock: Clock, rng: Rng
    ) -> None:
        """`limit`: most sessions at once."""
        self._store = store
        self._registry = registry
        self._limit = limit
        self._clock = clock
        self._rng = rng
        self._live: dict[AgentKey, Session] = {}
        self._dirty: dict[AgentKey, Member] = {}
        self._changed = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        return len(self._live)

    def connected(self, key: AgentKey) -> bool:
        """True while the agent has a stream."""
        return key in self._live

    def open(self, member: Member, not_after: int) -> Session:
        """A session for an agent that was admitted; ends the one it had.

        Raises: TooMuch (with retry_after) at the limit or while draining.
        """
        former = self._live.get(member.key)
        if self._draining or (former is None and len(self._live) >= self._limit):
            raise TooMuch(
                f"sessions: the limit of {self._limit} is reached, or the coordinator is stopping",
                retry_after=int(self._rng.uniform(5, 30)),
            )
        if former is not None:
            former.end(Ended(REPLACED))
        session = Session(member, not_after)
        self._live[member.key] = session
        return session

    def leave(self, session: Session) -> None:
        """The stream is over. Idempotent."""
        if self._live.get(session.member.key) is session:
            del self._live[session.member.key]
            self._saw(session.member)

    def hello(self, member: Member, version: str, boot_id: str, runtimes: str) -> None:
        """First message of a stream."""
        presence = member.presence
        if presence.boot_id != boot_id:
            presence = replace(presence, counts=Counts())
        member.presence = replace(presence, version=version, boot_id=boot_id, runtimes=runtimes)
        self._saw(member)

    def observe(self, member: Member, observed: Observed) -> None:
        """What the agent says it runs: the latest word replaces the one before."""
        member.presence = replace(member.presence, observed=observed)
        self._saw(member)

    def count(self, member: Member, counts: Counts) -> None:
        """The agent's counters: the latest replace the ones before."""
        member.presence = replace(member.presence, counts=counts)
        self._saw(member)

    def end(self, key: AgentKey, ended: Ended) -> None:
        """End an agent's session, if it has one."""
        session = self._live.get(key)
        if session is not None:
            session.end(ended)

    def assign(self, tenant: str, desired: Desired) -> None:
        """Memory follows the database: every active agent of the tenant has a new desire."""
        for member in self._registry.of_tenant(tenant):
            if member.state != ACTIVE:
                continue
            member.desired = desired
            session = self._live.get(member.key)
            if session is not None:
                session.touch()

    async def collect(self) -> None:
        """Write observations in batches until cancelled. One task runs this."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except StorageError as error:
                # They stay dirty: the next flush carries them, or newer ones.
                log.error("observations not stored (%s): %s", error.code, error.message)
                await self._clock.sleep(1.0)

    async def flush(self) -> None:
        """Write what has been observed since the last flush. Raises: StorageError."""
        self._changed.clear()
        dirty, self._dirty = self._dirty, {}
        if not dirty:
            return
        batch = [(key, member.presence) for key, member in dirty.items()]
        try:
            await self._store.write(lambda tx: _store_presence(tx, batch))
        except BaseException:
            self._dirty = {**dirty, **self._dirty}
            self._changed.set()
            raise

    def end_expired(self) -> None:
        """End the sessions whose certificate has run out."""
        now = self._clock.now()
        for session in list(self._live.values()):
            if session.not_after <= now:
                session.end(Ended(EXPIRED))

    async def sweep(self) -> None:
        """`end_expired` now and again, until cancelled. One task runs this."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            self.end_expired()

    async def drain(self, seconds: float) -> None:
        """Tell every agent to come back later, wait until they are gone, and store the rest.

        MUST: what the sessions observed before is in the database when this returns.
        """
        self._draining = True
        for session in list(self._live.values()):
            # Spread over some seconds, or all would come back in the same instant.
            session.end(Ended(DRAINING, retry_after=int(self._rng.uniform(1, 5))))
        deadline = self._clock.monotonic() + seconds
        while self._live and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)
        await self.flush()

    def _saw(self, member: Member) -> None:
        member.presence = replace(member.presence, last_seen=self._clock.now())
        self._dirty[member.key] = member
        self._changed.set()


def _store_presence(tx: Tx, batch: list[tuple[AgentKey, Presence]]) -> None:
    tx.agents.set_presence(batch)
