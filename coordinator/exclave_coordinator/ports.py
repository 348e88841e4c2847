"""What the coordinator's core asks of the world: protocols, and the values that cross them.

Adapters live in `storage` and `system`; fakes in `exclave_testing` pass the same contract
suites (tests/contract).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from exclave_coordinator.term_ports import Terms
from exclave_coordinator.witness_ports import Witnessing

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


# --- values --------------------------------------------------------------------------------

ACTIVE = "active"
EVICTED = "evicted"
BANNED = "banned"

PHASE_APPLIED = 5
PHASE_FAILED = 6
PHASE_REVERTED = 7
"""Numbers of exclave.v1.Phase that the core looks at."""


@dataclass(frozen=True, slots=True)
class AgentKey:
    """Which agent: names are unique within a tenant."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Desired:
    """What an agent shall run; generation 0: nothing yet."""

    generation: int = 0
    release_digest: str = ""
    rollout: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant and where its signed metadata stands."""

    name: str
    created: int
    """Seconds since the epoch."""
    snapshot_key: bytes
    timestamp_key: bytes
    """Raw Ed25519 public keys."""
    root_version: int = 0
    targets_version: int = 0
    snapshot_version: int = 0
    timestamp_version: int = 0
    timestamp_expires: int = 0
    """Seconds since the epoch; 0: none signed."""
    root_pin: bytes = b""
    desired: Desired = Desired()
    """Newest rollout: what a new agent of the tenant is to run."""


@dataclass(frozen=True, slots=True)
class Token:
    """A join token as stored: never its secret."""

    id: str
    tenant: str
    secret_hash: bytes
    agent: str
    created: int
    expires: int
    revoked: bool = False
    spent_key: bytes = b""
    """SHA-256 of the public key that spent it; empty: unspent."""
    spent_agent: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What an agent last said it runs (exclave.v1.Observed)."""

    generation: int = 0
    phase: int = 0
    release_digest: str = ""
    error_code: str = ""
    error_message: str = ""
    audit_size: int = 0
    audit_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """An agent's counters since its boot (exclave.v1.Counts)."""

    answered: int = 0
    denied: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    worker_crashes: int = 0


@dataclass(frozen=True, slots=True)
class Presence:
    """What a session tells of an agent: the part of its row that sessions write."""

    last_seen: int = 0
    version: str = ""
    boot_id: str = ""
    runtimes: str = ""
    """Comma-separated."""
    observed: Observed = Observed()
    counts: Counts = Counts()


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent as stored."""

    key: AgentKey
    state: str
    """ACTIVE, EVICTED or BANNED."""
    public_key: bytes
    """SubjectPublicKeyInfo (DER) bound at enrollment or renewal."""
    previous_key: bytes
    """The key before the last renewal, whose certificate may still run; empty: none."""
    audit_key: bytes
    """Raw Ed25519 public key that signs the agent's checkpoints."""
    created: int
    desired: Desired = Desired()
    presence: Presence = Presence()


@dataclass(frozen=True, slots=True)
class Release:
    """A release manifest that the tenant's signed targets name."""

    tenant: str
    digest: str
    version: int
    targets_version: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout and its progress."""

    id: str
    tenant: str
    release_digest: str
    generation: int
    started: int
    started_by: str
    agents: int = 0
    applied: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """One agent epoch's log as the coordinator holds it."""

    id: int
    key: AgentKey
    epoch: int
    audit_key: bytes
    """Raw Ed25519 key of the log, fixed when its first leaf arrives."""
    size: int = 0
    head: bytes = bytes(32)
    """Leaf hash of the last stored leaf; zeros: none."""
    witnessed_size: int = 0
    witnessed_at: int = 0
    """Seconds since the epoch: the cosignature's timestamp."""
    peaks: tuple[bytes, ...] = ()
    """Frontier at witnessed_size."""
    checkpoint: bytes = b""
    """The agent's signed note at witnessed_size, without our cosignature."""


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """Exact leaf bytes and what is looked up about them."""

    seq: int
    hash: bytes
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a log of the coordinator's own stands."""

    size: int = 0
    head: bytes = bytes(32)
    peaks: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """A contradiction, kept as it was received."""

    key: AgentKey
    epoch: int
    seq: int
    kind: str
    """"leaf" (another leaf is stored at this seq), "root", "proof", "fork" or "term" (signed by
    another process than the one that holds the log)."""
    at: int
    detail: str
    data: bytes


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


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate just made."""

    chain: tuple[bytes, ...]
    """DER, leaf first."""
    serial: str
    not_after: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class OperatorCertificate:
    """A certificate that was issued to an operator; times in seconds since the epoch."""

    name: str
    role: str
    serial: str
    issued: int
    not_after: int


@dataclass(frozen=True, slots=True)
class TenantSeeds:
    """Private halves of a tenant's online TUF keys (raw Ed25519 seeds, 32 bytes)."""

    snapshot: bytes = field(repr=False)
    timestamp: bytes = field(repr=False)


class TenantKeys(Protocol):
    """The per-tenant online TUF keys, one file each."""

    def create(self, tenant: str) -> TenantSeeds:
        """New keys, or those that an interrupted creation left behind. Raises: SetupError."""
        ...

    def load(self, tenant: str) -> TenantSeeds:
        """Raises: SetupError (missing or readable by others)."""
        ...
