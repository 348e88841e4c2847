"""The director: what an agent shall run, signed for that agent alone."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator.ports import AgentKey, Clock, Desired
from exclave_protocol.release import Assignment, sign_assignment


class Director:
    """Signs assignments when they are sent (about 0.1 ms each), never before."""

    def __init__(
        self, key: Ed25519PrivateKey, trust_domain: str, *, ttl: int, clock: Clock
    ) -> None:
        """`ttl`: seconds within which an agent must take up an assignment."""
        self._key = key
        self._domain = trust_domain
        self._ttl = ttl
        self._clock = clock

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def assignment(self, agent: AgentKey, desired: Desired) -> bytes:
        """The DSSE envelope; empty while nothing is desired."""
        # The generation alone does not tell: after a restore it counts on from a higher number.
        if not desired.release_digest:
            return b""
        now = self._clock.now()
        assignment = Assignment(
            trust_domain=self._domain,
            tenant=agent.tenant,
            agent=agent.name,
            generation=desired.generation,
            release_digest=desired.release_digest,
            rollout=desired.rollout,
            issued=now,
            expires=now + self._ttl,
        )
        return sign_assignment(assignment, self._key)
