"""Renew: a fresh certificate at half-life, and the way back for an agent that slept past its own.

A certificate that is about to end, or has ended, is replaced by Recover, which proves the key
that was bound at enrollment; it needs no valid certificate.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from exclave_agent.errors import AgentError, IdentityError, LinkError
from exclave_agent.identity import keys
from exclave_agent.identity.store import Identity, IdentityStore
from exclave_agent.identity.transport import RecoverQuery, RenewTransport
from exclave_agent.ports import Clock, Rng
from exclave_agent.slots import Backoff, pause

log = logging.getLogger(__name__)

HALF_LIFE: Final = 0.5
JITTER: Final = 0.1
LAST_TENTH: Final = 0.9
"""From this share of its life on, a certificate that Renew could not replace is recovered."""
LONGEST_NAP: Final = 300.0
"""Seconds between looks at the wall clock: a suspended machine wakes up late."""


class Renewer:
    """Keeps the certificate fresh for as long as `run` runs."""

    def __init__(
        self, store: IdentityStore, transport: RenewTransport, *, clock: Clock, rng: Rng
    ) -> None:
        """`store` is told of each new certificate, and tells its listeners."""
        self._store = store
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._wake = asyncio.Event()
        self._now = False
        self.last_error: AgentError | None = None
        """Why the newest attempt failed; None after a success."""

    def renew_now(self) -> None:
        """Ask for a new certificate at once, as when the coordinator says that ours expired."""
        self._now = True
        self._wake.set()

    async def run(self) -> None:
        """Renew until cancelled; returns only when the coordinator has banned this agent."""
        backoff = Backoff()
        due = self._due()
        while True:
            await self._until(due)
            try:
                identity = await self.renew_once()
            except (IdentityError, LinkError) as error:
                self.last_error = error
                log.warning("certificate not renewed (%s): %s", error.code, error.message)
                if error.code == "banned":
                    return
                await self._clock.sleep(self._rng.uniform(0, backoff.ceiling()))
                continue
            backoff.reset()
            due = self._due()
            self._now = False
            self.last_error = None
            log.info("certificate renewed; it holds until %d", identity.not_after)

    async def renew_once(self) -> Identity:
        """One attempt: Renew, or Recover where the certificate has ended or is about to.

        Raises: IdentityError, LinkError.
        """
        identity = self._store.current
        key = keys.load_identity_key(identity.key_pem)
        csr = keys.certificate_request(key)
        if not self._now and self._age(identity) < 1.0:
            try:
                return self._store.accept(await self._transport.renew(csr))
            except LinkError as error:
                # A coordinator that finds our certificate expired by its own clock ends the
                # handshake, which looks like any other broken link.
                if self._age(identity) < LAST_TENTH:
                    raise
                log.info("renewal failed (%s); recovering instead", error.code)
        timestamp = self._clock.now_ns() // 1_000_000_000
        query = RecoverQuery(
            tenant=identity.tenant,
            agent=identity.agent,
            csr=csr,
            timestamp=timestamp,
            proof=keys.sign_recovery(key, identity.tenant, identity.agent, timestamp, csr),
        )
        return self._store.accept(await self._transport.recover(query))

    def _age(self, identity: Identity) -> float:
        """Share of the certificate's life that has passed; 1.0 and more: it has ended."""
        life = max(1, identity.not_after - identity.not_before)
        return (self._clock.now_ns() / 1e9 - identity.not_before) / life

    def _due(self) -> float:
        """When to renew the present certificate, seconds since the epoch."""
        identity = self._store.current
        share = self._rng.uniform(HALF_LIFE - JITTER, HALF_LIFE + JITTER)
        return identity.not_before + (identity.not_after - identity.not_before) * share

    async def _until(self, due: float) -> None:
        while not self._now:
            left = due - self._clock.now_ns() / 1e9
            if left <= 0:
                return
            await pause(self._clock, min(left, LONGEST_NAP), self._wake)
