"""The values that cross the coordinator's ports: what is stored, as the core sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

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
