"""What enrollment asks of the network; `link.enroll` does it with gRPC, tests without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EnrollQuery:
    """What a joining machine sends (EnrollRequest)."""

    tenant: str
    token_id: str
    token_secret: bytes = field(repr=False)
    csr: bytes
    agent: str
    audit_public_key: bytes


@dataclass(frozen=True, slots=True)
class RecoverQuery:
    """What an agent with an expired certificate sends (RecoverRequest)."""

    tenant: str
    agent: str
    csr: bytes
    timestamp: int
    proof: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and what belongs to it (EnrollResponse). Nothing here is checked yet."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER, leaf first."""
    ca_bundle: tuple[bytes, ...]
    """DER."""
    session_endpoint: str
    witness_vkey: str
    director_key: bytes
    """Raw Ed25519, 32 bytes."""


class JoinTransport(Protocol):
    """The enrollment port, seen by a machine that has no identity yet."""

    async def presented_chain(self, endpoint: str) -> Sequence[bytes]:
        """The certificates (DER) that the server presents; NOT verified in any way.

        Raises: LinkError.
        """
        ...

    async def enroll(self, endpoint: str, ca: bytes, query: EnrollQuery) -> Issued:
        """Enrollment.Enroll over TLS that trusts only `ca` (DER).

        Raises: IdentityError (token_unknown, token_spent, token_expired, banned), LinkError.
        """
        ...


class RenewTransport(Protocol):
    """The two ways to a new certificate."""

    async def renew(self, csr: bytes) -> Issued:
        """Identity.Renew with the present certificate.

        Raises: IdentityError (evicted, banned, expired), LinkError.
        """
        ...

    async def recover(self, query: RecoverQuery) -> Issued:
        """Enrollment.Recover with proof of the bound key.

        Raises: IdentityError (evicted, banned, recovery_refused, clock_skew), LinkError.
        """
        ...
