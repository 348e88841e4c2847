"""What the agent's core asks of the world: protocols, and the values that cross them.

Adapters live in `storage`, `link`, `runtimes` and `system`; fakes in `exclave_testing`
pass the same contract suites (tests/contract).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from exclave_policy.evaluate import CompiledPolicy
from exclave_protocol.canonical import JsonValue

from .completions import CompletionStore, KeptCompletion
from .decisions import (
    BreakerState,
    BreakerView,
    BudgetView,
    Decided,
    DecisionMetrics,
    Ledger,
    LedgerEntry,
    NoSpan,
    NoTracer,
    RedactionKeys,
    Referral,
    Referrals,
    Span,
    Terms,
    Tracer,
)
from .models import (
    NO_TIMING,
    Delta,
    Embeddings,
    Finished,
    Generate,
    MemoryPlan,
    Message,
    ModelInfo,
    ModelSet,
    ModelSpec,
    Placement,
    Price,
    Priority,
    Runtimes,
    RuntimeStats,
    Sampling,
    Scores,
    Tensor,
    TensorInfo,
    Timing,
    TokenLogprob,
    Tool,
    ToolCall,
)

__all__ = [
    "NO_TIMING",
    "ActiveRelease",
    "Appended",
    "ArtifactSource",
    "AuditHead",
    "AuditLog",
    "AuditSink",
    "BreakerState",
    "BreakerView",
    "BudgetView",
    "Caller",
    "Clock",
    "CompletionStore",
    "Decided",
    "DecisionMetrics",
    "Delta",
    "Embeddings",
    "Finished",
    "Generate",
    "Ids",
    "KeptCompletion",
    "KeyRing",
    "LeafDraft",
    "Ledger",
    "LedgerEntry",
    "MemoryPlan",
    "Message",
    "ModelInfo",
    "ModelSet",
    "ModelSpec",
    "NoSpan",
    "NoTracer",
    "Placement",
    "Price",
    "Priority",
    "RedactionKeys",
    "Referral",
    "Referrals",
    "Releases",
    "Rng",
    "RuntimeStats",
    "Runtimes",
    "Sampling",
    "Scores",
    "Span",
    "StateStore",
    "Tensor",
    "TensorInfo",
    "TermClaim",
    "Terms",
    "Timing",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "Tracer",
]

# --- time, chance, names -------------------------------------------------------------


class Clock(Protocol):
    """Wall and monotonic time; the simulator provides a virtual one."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the Unix epoch."""
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
        """32 lower-case hex digits, unique."""
        ...


# --- the record --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeafDraft:
    """A leaf before it has its place in the log.

    `body` is public (it leaves the machine): metadata and counts only. `private` never
    leaves: each entry becomes a salted commitment in the leaf and an encrypted vault row.
    """

    type: str
    """A name of `exclave_protocol.leaf.LeafType`."""
    body: Mapping[str, JsonValue]
    private: Mapping[str, JsonValue] = field(default_factory=dict)
    subject: str = ""
    """Whose data `private` is: the vault's key and the unit of erasure."""
    ledger: tuple[LedgerEntry, ...] = ()
    """Amounts added to the durable budgets in the leaf's own transaction."""
    salts: Mapping[str, bytes] = field(default_factory=dict)
    """Of those of `private` whose commitment was signed before the leaf was written; the others
    get fresh ones."""
    subject_of: int | None = None
    """Whose data `private` is, in place of `subject`: that of the values under this number
    (`audit.store.LogReader.subject_of`). Once that subject is erased they are not kept."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a leaf landed; durable when you hold this."""

    epoch: int
    seq: int
    hash: bytes
    """RFC 6962 leaf hash, 32 bytes."""


class AuditLog(Protocol):
    """The agent's chained log."""

    async def append(self, draft: LeafDraft) -> Appended:
        """Return once vault rows and leaf are on disk (fsync).

        Raises: StorageFull, StorageError. On error nothing of the draft is visible.
        """
        ...


class AuditSink(Protocol):
    """The coordinator's Audit service as the agent uses it."""

    async def head(self, epoch: int) -> AuditHead:
        """Where the coordinator stands. Raises: LinkError."""
        ...

    async def recorded(self, epoch: int) -> bytes:
        """The proof that the newest cosignature over this log is in the witness's own log (C2SP
        tlog-proof); empty: none was given. Raises: LinkError."""
        ...

    async def begin_term(self, claim: TermClaim) -> bytes:
        """Show that this process follows the one that held the log last, and that its log extends
        the cosigned head; returns the fencing token. Idempotent for one term.

        Raises: AuditDiverged ("fenced"), LinkError ("epoch_not_open", "log_of_another_key",
        "term_stale", "term_inconsistent" ...).
        """
        ...

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int
    ) -> int:
        """Upload leaves; returns the stored size. Raises: AuditDiverged ("fenced"), LinkError."""
        ...

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """Have a checkpoint cosigned; returns the cosignature line. Raises: AuditDiverged
        ("fenced"), LinkError (code "witness_stale", "witness_inconsistent" ...)."""
        ...


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The coordinator's view of one epoch."""

    size: int
    witnessed_size: int
    checkpoint: bytes
    epoch_open: int = 1
    """Newest epoch that may begin, or has."""
    term: int = 0
    """The term that holds the log; 0: none was begun."""


@dataclass(frozen=True, slots=True)
class TermClaim:
    """What a process tells that wants to write the log (audit.proto: BeginTermRequest)."""

    epoch: int
    note: bytes
    """The head, signed in the new term, which it certifies."""
    old_size: int
    proof: Sequence[bytes]
    commitment: bytes
    nonces: Sequence[bytes] = field(repr=False)
    token: bytes = field(repr=False)


# --- the coordinator's artifacts -----------------------------------------------------------


class ArtifactSource(Protocol):
    """The tenant's TUF repository at the coordinator."""

    async def metadata(self, name: str) -> bytes | None:
        """One TUF metadata file; None when it does not exist. Raises: LinkError."""
        ...

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """The target's bytes from `offset`. Raises: LinkError."""
        ...


# --- small durable state ---------------------------------------------------------------------


class StateStore(Protocol):
    """Named small values in the agent's database: last generation, active release, clock floor."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    async def put(self, key: str, value: bytes | None) -> None:
        """Durable when it returns; None deletes. Raises: StorageFull, StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an API key's public id and its roles."""

    key_id: str
    roles: tuple[str, ...]


class KeyRing(Protocol):
    """Local API keys."""

    def authenticate(self, secret: str) -> Caller | None:
        """The key's owner, or None. Constant-time in the secret; sees keys made by other
        processes at once. Cheap enough for every request."""
        ...


# --- what is active -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ActiveRelease:
    """One verified, loaded release; replaced as a whole, never changed."""

    digest: str
    """SHA-256 hex of the signed release manifest."""
    version: int
    generation: int
    policy: CompiledPolicy
    policy_digest: str
    models: ModelSet


class Releases(Protocol):
    """The release that answers requests now."""

    def lease(self) -> AbstractContextManager[ActiveRelease]:
        """Hold the current release for one decision: its models are not closed meanwhile.

        Raises: NoRelease when nothing is active or the offline grace has ended.
        """
        ...
