"""What the agent's core asks of the world: protocols, and the values that cross them.

Adapters live in `storage`, `link`, `runtimes` and `system`; fakes in `exclave_testing`
pass the same contract suites (tests/contract).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from exclave_policy.evaluate import CompiledPolicy
from exclave_protocol.canonical import JsonValue

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


# --- models ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of a release, its file already verified on disk."""

    name: str
    runtime: str
    """"llama" or "onnx"."""
    path: Path
    sha256: str
    """Hex digest of the file, recorded in every decision."""
    parameters: Mapping[str, int | str | bool] = field(default_factory=dict)
    """From the signed manifest: llama: n_ctx (per sequence), n_parallel, embeddings;
    onnx: max_batch, max_wait_us, threads."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of an ONNX model, in Open Inference Protocol terms."""

    name: str
    datatype: str
    """BOOL, UINT8..UINT64, INT8..INT64, FP16, FP32, FP64, BYTES."""
    shape: tuple[int, ...]
    """-1: any size."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself."""

    name: str
    runtime: str
    sha256: str
    actions: frozenset[str]
    """Subset of {"chat", "complete", "embed", "infer"}."""
    context_tokens: int = 0
    """Most tokens of one sequence, prompt and answer together; 0 for onnx."""
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    provider: str = ""
    """Where it runs: "cpu", "cuda"; what the engine reports."""
    network: str = "shared"
    """"none" when the worker has no network of its own, else "shared"."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Defaults are OpenAI's where it has one."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    """JSON Schema text that the answer must match; constrains sampling where it can."""


@dataclass(frozen=True, slots=True)
class Generate:
    """A request to a language model: messages (templated by the runtime) or a raw prompt."""

    model: str
    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of an answer (whole UTF-8 characters only)."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer."""

    reason: str
    """"stop" or "length"."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense little-endian row-major array; BYTES holds 4-byte length-prefixed elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input text."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


class ModelSet(Protocol):
    """The loaded models of one release. Shared workers are reference-counted."""

    def models(self) -> Mapping[str, ModelInfo]:
        """By name."""
        ...

    def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
        """Stream an answer; the last event is `Finished`. Closing the iterator frees the slot.

        Raises: UnknownModel, TooManyTokens (before any Delta), Overloaded, WorkerCrashed.
        """
        ...

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """Run an ONNX model. `outputs` empty: all.

        Raises: UnknownModel, BadRequest (name, datatype or shape, named), Overloaded,
        WorkerCrashed.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """Embed texts. Raises as `generate`."""
        ...

    async def close(self) -> None:
        """Let go of the workers once their requests have ended. Idempotent."""
        ...


class Runtimes(Protocol):
    """Loads models in worker processes."""

    async def load(self, specs: Sequence[ModelSpec]) -> ModelSet:
        """Load all or none. A model already loaded (same digest and parameters) is shared.

        Raises: ModelLoadFailed naming the model; the models of other sets are untouched.
        """
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

    async def append(self, epoch: int, first_seq: int, leaves: Sequence[bytes]) -> int:
        """Upload leaves; returns the stored size. Raises: LinkError."""
        ...

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """Have a checkpoint cosigned; returns the cosignature line. Raises: LinkError
        (code "witness_stale", "witness_inconsistent" ...)."""
        ...


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The coordinator's view of one epoch."""

    size: int
    witnessed_size: int
    checkpoint: bytes


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
