"""The frames between the agent and a model's worker: MessagePack structs, length-prefixed.

    frame = u32 big-endian length of the body | body (MessagePack map with a "t" tag)

Both sides decode strictly: an unknown tag, an unknown field, a wrong type or a body longer
than `MAX_FRAME` is a `FrameError`, and the connection is over. Neither side trusts the other:
a worker runs an engine over a file that, though signed, may crash or subvert it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, TypeAlias, TypeVar

import msgspec

MAX_FRAME = 64 << 20
"""Bytes of one body: the largest tensor plus its envelope."""

MAX_ITEMS = 65_536
"""Entries of any list in a frame."""

MAX_ADAPTERS = 16
"""LoRA adapters of one worker."""

_T = TypeVar("_T")

PREFIX = struct.Struct(">I")

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]
Note: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096)]


class FrameError(Exception):
    """The peer sent what no frame of ours looks like; the message holds sizes, never data."""


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="t", gc=False):
    """Base of all frames: the tag is the class's name in lower case unless it says otherwise."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of what lies inside frames; positional, since it is sent for every token."""


# --- values ------------------------------------------------------------------------------


class ToolCallFrame(_Part, frozen=True):
    """A call of a function; `arguments` is JSON text."""

    id: Name
    name: Name
    arguments: str


class ToolFrame(_Part, frozen=True):
    """A function on offer; `parameters` is JSON Schema text."""

    name: Name
    description: str
    parameters: str


class ChatMessage(_Part, frozen=True):
    """One message for the model's chat template."""

    role: Name
    content: str
    tool_calls: Annotated[list[ToolCallFrame], msgspec.Meta(max_length=128)] = []
    tool_call_id: Name = ""
    name: Name = ""


class SamplingFrame(_Part, frozen=True):
    """How to choose tokens; the meaning of each field is that of `ports.Sampling`."""

    max_tokens: Count
    temperature: float
    top_p: float
    top_k: Count
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    seed: Id
    """Always given: the agent draws one from its own `Rng` when the caller has none."""
    stop: Annotated[list[str], msgspec.Meta(max_length=64)]
    json_schema: str | None
    repeat_penalty: float = 1.0
    logit_bias: Annotated[list[tuple[Count, float]], msgspec.Meta(max_length=1024)] = []
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    grammar: str | None = None


class TensorFrame(_Part, frozen=True):
    """A dense tensor; `data` is a view into the frame, not a copy."""

    name: Name
    datatype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: Annotated[list[Count], msgspec.Meta(max_length=16)]
    data: memoryview


class SignatureFrame(_Part, frozen=True):
    """One input or output that a model has; -1 stands for any size."""

    name: Name
    datatype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: Annotated[
        list[Annotated[int, msgspec.Meta(ge=-1, le=(1 << 53) - 1)]], msgspec.Meta(max_length=16)
    ]


class Text(_Part, frozen=True):
    """New text of one sequence."""

    id: Id
    text: str


class LogprobFrame(_Part, frozen=True):
    """A token's bytes and natural log probability, and those of its alternatives."""

    token: bytes
    logprob: float
    top: Annotated[list[tuple[bytes, float]], msgspec.Meta(max_length=20)] = []


class Extra(_Part, frozen=True):
    """What few sequences have beside text: log probabilities, calls that are complete. It
    belongs to the `Text` of the same sequence in the same step, or stands alone."""

    id: Id
    logprobs: Annotated[list[LogprobFrame], msgspec.Meta(max_length=MAX_ITEMS)] = []
    tool_calls: Annotated[list[ToolCallFrame], msgspec.Meta(max_length=128)] = []
    """Their ids are empty: the agent gives them."""


class Ended(_Part, frozen=True):
    """A sequence that ended by itself. Times as in `ports.Timing`."""

    id: Id
    reason: Annotated[str, msgspec.Meta(pattern=r"^(stop|length|tool_calls)\Z")]
    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count = 0
    queued_us: Count = 0
    prefill_us: Count = 0
    decode_us: Count = 0
    preemptions: Count = 0
    drafted: Count = 0
    accepted: Count = 0


class StatsFrame(_Part, frozen=True):
    """See `ports.RuntimeStats`."""

    waiting: Count = 0
    batch_tokens: Count = 0
    batch_sequences: Count = 0
    busy_us: Count = 0
    prefix_hits: Count = 0
    prefix_tokens: Count = 0
    prefix_bytes: Count = 0
    preemptions: Count = 0
    drafted: Count = 0
    accepted: Count = 0


class AdapterFrame(_Part, frozen=True):
    """A LoRA adapter of the model: requests name it by its digest."""

    sha256: Name
    path: str
    scale: float


# --- agent to worker ------------------------------------------------------------------------


class Load(_Frame, frozen=True, tag="load"):
    """The first frame, sent once."""

    runtime: Name
    path: str
    parameters: dict[str, int | str | bool]
    adapters: Annotated[list[AdapterFrame], msgspec.Meta(max_length=MAX_ADAPTERS)] = []


class Generate(_Frame, frozen=True, tag="generate"):
    """Answer messages (through the model's template) or, when given, the raw prompt."""

    id: Id
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=MAX_ITEMS)]
    prompt: str | None
    sampling: SamplingFrame
    tools: Annotated[list[ToolFrame], msgspec.Meta(max_length=128)] = []
    tool_choice: Annotated[str, msgspec.Meta(pattern=r"^(auto|none|required)\Z")] = "auto"
    tool_name: Name = ""
    parallel_tool_calls: bool = True
    caller: Name = ""
    priority: Annotated[str, msgspec.Meta(pattern=r"^(interactive|batch)\Z")] = "interactive"
    timeout_us: Count | None = None
    """From this frame's arrival on."""
    adapter: Name = ""
    """Digest of one of `Load.adapters`; "": the model as it is."""


class Infer(_Frame, frozen=True, tag="infer"):
    """Run the ONNX model; no `outputs`: all of them."""

    id: Id
    inputs: Annotated[list[TensorFrame], msgspec.Meta(max_length=1024)]
    outputs: Annotated[list[Name], msgspec.Meta(max_length=1024)]


class Embed(_Frame, frozen=True, tag="embed"):
    """Embed texts."""

    id: Id
    texts: Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]


class Rerank(_Frame, frozen=True, tag="rerank"):
    """Score documents against a query."""

    id: Id
    query: str
    documents: Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]


class Cancel(_Frame, frozen=True, tag="cancel"):
    """Forget request `id`; nothing more is said of it. Unknown ids are ignored: the answer
    may have crossed this frame on its way."""

    id: Id


class Ping(_Frame, frozen=True, tag="ping"):
    """Are you there?"""

    nonce: Id


class Shutdown(_Frame, frozen=True, tag="shutdown"):
    """Exit now; sent when no request is left."""


# --- worker to agent ------------------------------------------------------------------------


class Loaded(_Frame, frozen=True, tag="loaded"):
    """The model is ready."""

    actions: Annotated[list[Name], msgspec.Meta(max_length=8)]
    context_tokens: Count
    inputs: Annotated[list[SignatureFrame], msgspec.Meta(max_length=1024)]
    outputs: Annotated[list[SignatureFrame], msgspec.Meta(max_length=1024)]
    provider: Name
    network: Annotated[str, msgspec.Meta(pattern=r"^(none|shared)\Z")]
    isolation: Annotated[list[Name], msgspec.Meta(max_length=16)]
    """The walls that stand, verified from inside: e.g. "netns", "seccomp", "no_core"."""
    degraded: Note = ""
    """Why it runs worse than its parameters ask for; "": it does not."""
    ram_bytes: Count = 0
    """What it took of main memory: weights it had to copy, contexts, buffers; weights that are
    mapped from the file count too, for while it works they are in memory."""
    vram_bytes: Count = 0


class LoadFailed(_Frame, frozen=True, tag="load_failed"):
    """The model cannot be loaded; the worker exits."""

    message: Note


class Step(_Frame, frozen=True, tag="step"):
    """What one decode step brought, for every sequence at once."""

    texts: Annotated[list[Text], msgspec.Meta(max_length=MAX_ITEMS)]
    ended: Annotated[list[Ended], msgspec.Meta(max_length=MAX_ITEMS)]
    extras: Annotated[list[Extra], msgspec.Meta(max_length=MAX_ITEMS)] = []


class Failed(_Frame, frozen=True, tag="failed"):
    """Request `id` was refused. `code` is one of `exclave_agent.errors`."""

    id: Id
    code: Name
    message: Note
    param: Name | None = None
    retry_after: float | None = None


class InferResult(_Frame, frozen=True, tag="infer_result"):
    """The outputs of an `Infer`."""

    id: Id
    outputs: Annotated[list[TensorFrame], msgspec.Meta(max_length=1024)]


class EmbedResult(_Frame, frozen=True, tag="embed_result"):
    """One unit vector a text, each as little-endian float32."""

    id: Id
    vectors: Annotated[list[bytes], msgspec.Meta(max_length=MAX_ITEMS)]
    prompt_tokens: Count


class RerankResult(_Frame, frozen=True, tag="rerank_result"):
    """One score a document, in order; higher is more relevant."""

    id: Id
    scores: Annotated[list[float], msgspec.Meta(max_length=MAX_ITEMS)]
    prompt_tokens: Count


class Pong(_Frame, frozen=True, tag="pong"):
    """Here. `steps` counts engine steps, `active` the requests held: busy without progress
    is how a hung engine is known."""

    nonce: Id
    steps: Count
    active: Count
    stats: StatsFrame = StatsFrame()


ToWorker: TypeAlias = Load | Generate | Infer | Embed | Rerank | Cancel | Ping | Shutdown
ToAgent: TypeAlias = (
    Loaded | LoadFailed | Step | Failed | InferResult | EmbedResult | RerankResult | Pong
)

to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_encoder = msgspec.msgpack.Encoder()


def encode(frame: ToWorker | ToAgent) -> bytearray:
    """Prefix and body in one buffer.

    Raises: FrameError when the body is longer than `MAX_FRAME`.
    """
    buffer = bytearray(PREFIX.size)
    _encoder.encode_into(frame, buffer, PREFIX.size)
    size = len(buffer) - PREFIX.size
    if size > MAX_FRAME:
        raise FrameError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
    PREFIX.pack_into(buffer, 0, size)
    return buffer


def decode_for_worker(body: bytes) -> ToWorker:
    """Raises: FrameError."""
    return _decode(to_worker, body)


def decode_for_agent(body: bytes) -> ToAgent:
    """Raises: FrameError."""
    return _decode(to_agent, body)


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # The cause is not chained: msgspec's message may quote what the peer sent.
        raise FrameError(f"a frame of {len(body)} bytes does not decode") from None


class Splitter:
    """Cuts a byte stream into frame bodies without knowing where the bytes come from."""

    __slots__ = ("_buffer", "_limit", "_need")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._need = -1

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The bodies completed by `data`, in order.

        Raises: FrameError as soon as a prefix announces more than the limit, before the body
        is held in memory.
        """
        buffer = self._buffer
        buffer += data
        while True:
            if self._need < 0:
                if len(buffer) < PREFIX.size:
                    return
                (self._need,) = PREFIX.unpack_from(buffer)
                if self._need > self._limit:
                    raise FrameError(
                        f"a frame of {self._need} bytes is announced, over the limit of "
                        f"{self._limit}"
                    )
            end = PREFIX.size + self._need
            if len(buffer) < end:
                return
            with memoryview(buffer) as view:
                body = bytes(view[PREFIX.size : end])
            del buffer[:end]
            self._need = -1
            yield body
