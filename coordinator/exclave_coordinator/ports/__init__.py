"""What the coordinator's core asks of the world: protocols, and the values that cross them.

Adapters live in `storage` and `system`; fakes in `exclave_testing` pass the same contract
suites (tests/contract).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from exclave_coordinator.term_ports import Terms
from exclave_coordinator.witness_ports import Witnessing

from .values import (
    ACTIVE,
    BANNED,
    EVICTED,
    PHASE_APPLIED,
    PHASE_FAILED,
    PHASE_REVERTED,
    Agent,
    AgentKey,
    ChainState,
    Counts,
    Desired,
    Evidence,
    Issued,
    Log,
    Observed,
    OperatorCertificate,
    Presence,
    Release,
    Rollout,
    StoredLeaf,
    Tenant,
    TenantSeeds,
    Token,
)

__all__ = [
    "ACTIVE",
    "BANNED",
    "EVICTED",
    "PHASE_APPLIED",
    "PHASE_FAILED",
    "PHASE_REVERTED",
    "Agent",
    "AgentKey",
    "Agents",
    "Artifacts",
    "Chain",
    "ChainState",
    "Clock",
    "Counts",
    "Desired",
    "Evidence",
    "Ids",
    "Issued",
    "Log",
    "Logs",
    "Observed",
    "OperatorCertificate",
    "Operators",
    "Presence",
    "Release",
    "Releases",
    "Rng",
    "Rollout",
    "Store",
    "StoredLeaf",
    "Tenant",
    "TenantKeys",
    "TenantSeeds",
    "Tenants",
    "Terms",
    "Token",
    "Tx",
    "Witnessing",
]

T = TypeVar("T")

# --- time, chance, names -----------------------------------------------------------------


class Clock(Protocol):
    """Wall and monotonic time."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the Unix epoch."""
        ...

    def now(self) -> int:
        """Wall clock, whole seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        ...


class Rng(Protocol):
    """Randomness: `token` is cryptographically strong."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high); for jitter only."""
        ...


class Ids(Protocol):
    """Fresh identifiers."""

    def new(self) -> str:
        """32 lower-case hex digits, unique and unpredictable."""
        ...


# --- the database ------------------------------------------------------------------------------


class Tenants(Protocol):
    """Tenants and their join tokens."""

    def get(self, name: str) -> Tenant | None: ...
    def all(self) -> Sequence[Tenant]: ...
    def insert(self, tenant: Tenant) -> bool:
        """False: the name is taken."""
        ...

    def set_desired(self, name: str, desired: Desired) -> None: ...
    def token(self, token_id: str) -> Token | None: ...
    def insert_token(self, token: Token) -> None: ...
    def spend_token(self, token_id: str, key_hash: bytes, agent: str, at: int) -> None: ...
    def revoke_token(self, token_id: str) -> bool:
        """False: no such token."""
        ...

    def revoke_open_tokens(self) -> int:
        """All of them that nobody has spent; returns how many."""
        ...


class Agents(Protocol):
    """Agents and what sessions write about them."""

    def get(self, key: AgentKey) -> Agent | None: ...
    def all(self, tenant: str = "") -> Sequence[Agent]: ...
    def upsert(self, agent: Agent) -> None:
        """Insert, or replace identity, state and desired of the same name (presence stays)."""
        ...

    def set_state(self, key: AgentKey, state: str) -> None: ...
    def set_keys(self, key: AgentKey, public_key: bytes, previous_key: bytes) -> None: ...
    def set_presence(self, batch: Sequence[tuple[AgentKey, Presence]]) -> None:
        """Many at once: one statement."""
        ...

    def set_desired(self, tenant: str, desired: Desired) -> int:
        """For every active agent of the tenant; returns how many."""
        ...


class Releases(Protocol):
    """TUF metadata files, releases and rollouts."""

    def metadata(self, tenant: str, name: str) -> bytes | None: ...
    def put_metadata(
        self, tenant: str, files: Sequence[tuple[str, int, bytes]], versions: Tenant
    ) -> None:
        """Files (name, version, content) and the tenant's version numbers, together."""
        ...

    def prune_metadata(self, tenant: str, role: str, below: int) -> None:
        """Forget `<n>.<role>.json` files with n < below."""
        ...

    def replace_releases(self, tenant: str, releases: Sequence[Release]) -> None: ...
    def release(self, tenant: str, digest: str) -> Release | None: ...
    def insert_rollout(self, rollout: Rollout) -> None: ...
    def rollout(self, tenant: str, rollout_id: str = "") -> Rollout | None:
        """With progress counted now; empty id: the newest."""
        ...

    def pending(self, tenant: str, rollout_id: str, limit: int) -> Sequence[Agent]:
        """Agents assigned to the rollout that have not applied it."""
        ...

    def freeze_rollout(self, tenant: str) -> None:
        """Keep the newest rollout's progress before another takes its agents."""
        ...


class Logs(Protocol):
    """Agents' leaves and checkpoints."""

    def get(self, key: AgentKey, epoch: int) -> Log | None: ...
    def of_tenant(self, tenant: str) -> Sequence[Log]: ...
    def sizes(self) -> dict[AgentKey, tuple[int, int]]:
        """Leaves (stored, witnessed) of each agent, all epochs together."""
        ...

    def create(self, key: AgentKey, epoch: int, audit_key: bytes) -> Log: ...
    def append(self, log_id: int, leaves: Sequence[StoredLeaf]) -> None:
        """Leaves that continue the log; also moves its size and head."""
        ...

    def hashes(self, log_id: int, begin: int, end: int) -> Sequence[bytes]:
        """Leaf hashes of [begin, end), in order."""
        ...

    def leaf(self, log_id: int, seq: int) -> StoredLeaf | None: ...
    def leaves(self, log_id: int, begin: int, end: int) -> Iterator[StoredLeaf]: ...
    def span(self, log_id: int, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """[first, end) of the leaves below `size` whose time lies in [from_ns, to_ns).

        From the smallest to the largest such seq; none: both are the number of earlier leaves.
        """
        ...

    def set_witnessed(self, log: Log) -> None: ...
    def insert_evidence(self, evidence: Evidence) -> None: ...
    def evidence(self, key: AgentKey) -> Sequence[Evidence]: ...


class Chain(Protocol):
    """A chained log of the coordinator's own."""

    def state(self) -> ChainState: ...
    def append(self, leaf: StoredLeaf, state: ChainState) -> None: ...
    def hashes(self, begin: int, end: int) -> Sequence[bytes]:
        """Leaf hashes of [begin, end), in order."""
        ...

    def leaves(self, begin: int, end: int) -> Iterator[StoredLeaf]: ...
    def span(self, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """As `Logs.span`."""
        ...


class Operators(Chain, Protocol):
    """The operators' own chained log, and the certificates issued to them."""

    def insert_certificate(
        self, name: str, role: str, serial: str, not_after: int, issued: int
    ) -> None: ...

    def certificates(self) -> Sequence[OperatorCertificate]:
        """Every one that was issued, the last to end first."""
        ...


class Tx(Protocol):
    """One transaction: all of it happens, or nothing."""

    @property
    def tenants(self) -> Tenants: ...
    @property
    def agents(self) -> Agents: ...
    @property
    def releases(self) -> Releases: ...
    @property
    def logs(self) -> Logs: ...
    @property
    def terms(self) -> Terms: ...
    @property
    def operators(self) -> Operators: ...
    @property
    def cosigned(self) -> Chain:
        """The witness's log: a leaf for each checkpoint that it cosigned."""
        ...

    @property
    def witnessing(self) -> Witnessing: ...


class Store(Protocol):
    """The coordinator's database."""

    async def write(self, job: Callable[[Tx], T], *, after: Callable[[T], None] | None = None) -> T:
        """Run `job` in a transaction; durable (fsync) when this returns.

        `job` runs in the writer's thread and must touch nothing but its Tx. `after` runs on
        the event loop once the change is durable, even when the caller has been cancelled:
        it is where memory follows the disk. An exception of `job` rolls its changes back
        and is raised here. Raises: StorageFull, StorageError.
        """
        ...

    async def read(self, job: Callable[[Tx], T]) -> T:
        """Run `job` on a consistent snapshot, in a reader's thread. Raises: StorageError."""
        ...


# --- artifacts ------------------------------------------------------------------------------


class Artifacts(Protocol):
    """Targets' bytes by tenant and SHA-256 (hex)."""

    async def length(self, tenant: str, sha256: str) -> int | None:
        """Bytes; None when it is not there."""
        ...

    async def put(
        self, tenant: str, sha256: str, length: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """Store a target; visible only when whole, right and on disk.

        Raises: Invalid (digest or length differ), StorageFull, StorageError.
        """
        ...

    def read(self, tenant: str, sha256: str, begin: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [begin, end) in pieces of at most 1 MiB. Raises: NotFound, StorageError."""
        ...


# --- signing --------------------------------------------------------------------------------


class TenantKeys(Protocol):
    """The per-tenant online TUF keys, one file each."""

    def create(self, tenant: str) -> TenantSeeds:
        """New keys, or those that an interrupted creation left behind. Raises: SetupError."""
        ...

    def load(self, tenant: str) -> TenantSeeds:
        """Raises: SetupError (missing or readable by others)."""
        ...
