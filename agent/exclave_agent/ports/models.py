"""Models as the core sees them: what is asked, what is answered, what is loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Priority: TypeAlias = Literal["interactive", "batch"]
"""Somebody waits for an interactive answer; a batch one yields to it, token by token."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of a release, its file already verified on disk."""

    name: str
    runtime: str
    """"llama", "onnx", "lora" (an adapter of another model of the release, named by its
    parameter `base`) or "remote" (the file is a signed endpoint document)."""
    path: Path
    sha256: str
    """Hex digest of the file, recorded in every decision."""
    parameters: Mapping[str, int | str | bool] = field(default_factory=dict)
    """From the signed manifest; see `runtimes.parameters`."""


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
    """What a model says of itself."""

    name: str
    runtime: str
    sha256: str
    actions: frozenset[str]
    """Subset of {"chat", "complete", "embed", "rerank", "infer"}."""
    context_tokens: int = 0
    """Most tokens of one sequence, prompt and answer together; 0: not known (onnx, remote)."""
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    provider: str = ""
    """Where it runs: "cpu", "cuda"; of a remote one the endpoint's kind."""
    network: str = "shared"
    """"none" when the worker has no network of its own, else "shared"."""
    degraded: str = ""
    """Why it runs worse than the release asks for (a GPU was expected and is absent); "": it
    does not."""
    remote: bool = False
    """Asking it sends data off this machine: the intent must be durable first."""
    data_classes: frozenset[str] | None = None
    """Of a remote one: the only labels of data that may be sent there ("": unlabelled data).
    None: any, as for every local model."""
    base: str = ""
    """Of a LoRA adapter: the model that it adapts."""
    price: Price | None = None
    """What its tokens cost; None: nothing is known, which a budget in money refuses."""
    endpoint: str = ""
    """Of a remote one: the host that it is asked at, lower case."""
    secret: str = ""
    """Of a remote one: the name of the secret that it is asked with; "": none is needed."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in millionths of the currency's unit per million tokens:
    integers, so that budgets add up exactly."""

    currency: str
    """ISO 4217, e.g. "EUR"."""
    input_micro: int
    """For a million prompt tokens: 150_000 is 0.15 of the unit."""
    output_micro: int
    cached_input_micro: int | None = None
    """For a million prompt tokens that the provider had cached; None: as `input_micro`."""

    def cost_micro(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Millionths of the unit for one answer, rounded up: a budget is never overdrawn by
        rounding."""
        per_cached = (
            self.input_micro if self.cached_input_micro is None else (self.cached_input_micro)
        )
        total = (
            (prompt - cached) * self.input_micro
            + cached * per_cached
            + completion * self.output_micro
        )
        return -(-total // 1_000_000)


# --- asking a language model ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller offers to the model."""

    name: str
    description: str = ""
    parameters: str = "{}"
    """JSON Schema text of the arguments; constrains them while they are sampled."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: str
    """"system", "user", "assistant" or "tool"."""
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's message."""
    tool_call_id: str = ""
    """Of a tool's message: which call it answers."""
    name: str = ""
    """Of a tool's message: the function; else a participant's name. May be empty."""


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
    repeat_penalty: float = 1.0
    """Divides the logits of tokens that the answer has already; 1: off."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, added to its logit), ids in ascending order."""
    top_logprobs: int | None = None
    """Report each token's log probability, and those of this many alternatives; None: neither."""
    json_schema: str | None = None
    """JSON Schema text that the answer must match; constrains sampling."""
    grammar: str | None = None
    """A grammar in Lark syntax (llguidance's) that the answer must match; not with
    `json_schema`."""


@dataclass(frozen=True, slots=True)
class Generate:
    """A request to a language model: messages (templated by the runtime) or a raw prompt."""

    model: str
    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """"auto", "none" or "required" (at least one call)."""
    tool_name: str = ""
    """With "required": the only function that may be called; "": any of them."""
    parallel_tool_calls: bool = True
    """Whether one answer may hold several calls."""
    caller: str = ""
    """Who asks (an API key's public id): the unit of fairness, and the border of prefixes that
    hold what a caller wrote."""
    priority: Priority = "interactive"
    timeout: float | None = None
    """Seconds from now after which the answer is of no use; None: no limit."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer and how likely it was before any temperature or cut."""

    token: bytes
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The most likely alternatives, best first; may hold the token itself."""


@dataclass(frozen=True, slots=True)
class Delta:
    """More of an answer. Text holds whole UTF-8 characters only; a tool call comes whole."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens whose text this is, when asked for."""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Where an answer's time went, microseconds, and how it was made; 0 where not known."""

    queued_us: int = 0
    """From arrival in the runtime to the first step that held it."""
    prefill_us: int = 0
    """From there to the first token."""
    decode_us: int = 0
    """From the first token to the last."""
    preemptions: int = 0
    """How often it gave up its slot to somebody more urgent."""
    drafted: int = 0
    """Tokens guessed ahead, and how many of them the model agreed with."""
    accepted: int = 0


NO_TIMING = Timing()
"""Nothing was measured."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer."""

    reason: str
    """"stop", "length", "tool_calls", or "content_filter" (a remote provider's)."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that were not computed again."""
    timing: Timing = NO_TIMING


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense little-endian row-major array; BYTES holds 4-byte length-prefixed elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One unit vector per input text."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How relevant each document is to a query, in the documents' order; higher is more."""

    scores: tuple[float, ...]
    prompt_tokens: int


# --- what is loaded --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """A worker's counters since it started, and what it holds now."""

    steps: int = 0
    active: int = 0
    """Requests held, waiting ones included."""
    waiting: int = 0
    batch_tokens: int = 0
    """Tokens of all steps together; over `steps`: the batch's occupancy."""
    batch_sequences: int = 0
    """Sequences of all steps together."""
    busy_us: int = 0
    """Time inside the engine."""
    prefix_hits: int = 0
    """Requests that began behind a cached prefix."""
    prefix_tokens: int = 0
    """Prompt tokens that were not computed again."""
    prefix_bytes: int = 0
    """Now held by the prefix cache."""
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """One model in the memory plan."""

    name: str
    runtime: str
    sha256: str
    state: str
    """"loaded", "loading", "evicted" (comes back on demand), "held back" (a crash loop),
    "remote"."""
    device: str
    """"cpu", "cuda", "remote"."""
    ram_bytes: int
    """Planned: weights (unless mapped and shared), context, buffers."""
    vram_bytes: int
    resident_bytes: int
    """What its process really holds now; 0: no process, or not ours to know."""
    keep_warm: bool
    in_use: int
    """Requests that it serves now."""
    idle_seconds: float
    reload_seconds: float
    """What its last load took; the price of evicting it."""
    degraded: str = ""
    stats: RuntimeStats = field(default_factory=RuntimeStats)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the models may take, and take."""

    ram_budget: int
    """Bytes."""
    vram_budget: int
    models: tuple[Placement, ...]


class ModelSet(Protocol):
    """The models of one release. Shared workers are reference-counted."""

    def models(self) -> Mapping[str, ModelInfo]:
        """By name."""
        ...

    def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
        """Stream an answer; the last event is `Finished`. Closing the iterator frees the slot
        within one step.

        Raises: UnknownModel, BadRequest, TooManyTokens (before any Delta), Overloaded,
        DeadlineExceeded, WorkerCrashed, Quarantined, RemoteFailed.
        """
        ...

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """Run an ONNX model. `outputs` empty: all.

        Raises: UnknownModel, BadRequest (name, datatype or shape, named), Overloaded,
        WorkerCrashed, Quarantined.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """Embed texts. Raises as `generate`."""
        ...

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Scores:
        """Score documents against a query. Raises as `generate`."""
        ...

    async def close(self) -> None:
        """Let go of the workers once their requests have ended. Idempotent."""
        ...


class Runtimes(Protocol):
    """Loads models in worker processes, and knows remote ones."""

    async def load(self, specs: Sequence[ModelSpec]) -> ModelSet:
        """Load all or none. A model already loaded (same digest and parameters) is shared.

        Raises: ModelLoadFailed naming the model; the models of other sets are untouched.
        """
        ...
