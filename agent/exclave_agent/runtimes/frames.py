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


class ChatMessage(_Part, frozen=True):
    """One message for the model's chat template."""

    role: Name
    content: str


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


class Ended(_Part, frozen=True):
    """A sequence that ended by itself: `reason` is "stop" or "length"."""

    id: Id
    reason: Annotated[str, msgspec.Meta(pattern="^(stop|length)$")]
    prompt_tokens: Count
    completion_tokens: Count


# --- agent to worker ------------------------------------------------------------------------


class Load(_Frame, frozen=True, tag="load"):
    """The first frame, sent once."""

    runtime: Name
    path: str
    parameters: dict[str, int | str | bool]


class Generate(_Frame, frozen=True, tag="generate"):
    """Answer messages (through the model's template) or, when given, the raw prompt."""

    id: Id
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=MAX_ITEMS)]
    prompt: str | None
    sampling: SamplingFrame


class Infer(_Frame, frozen=True, tag="infer"):
    """Run the ONNX model; no `outputs`: all of them."""

    id: Id
    inputs: Annotated[list[TensorFrame], msgspec.Meta(max_length=1024)]
    outputs: Annotated[list[Name], msgspec.Meta(max_length=1024)]


class Embed(_Frame, frozen=True, tag="embed"):
    """Embed texts."""

    id: Id
    texts: Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]


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
    network: Annotated[str, msgspec.Meta(pattern="^(none|shared)$")]
    isolation: Annotated[list[Name], msgspec.Meta(max_length=16)]
    """The walls that stand, verified from inside: e.g. "netns", "seccomp", "no_core"."""


class LoadFailed(_Frame, frozen=True, tag="load_failed"):
    """The model cannot be loaded; the worker exits."""

    message: Note


class Step(_Frame, frozen=True, tag="step"):
    """What one decode step brought, for every sequence at once."""

    texts: Annotated[list[Text], msgspec.Meta(max_length=MAX_ITEMS)]
    ended: Annotated[list[Ended], msgspec.Meta(max_length=MAX_ITEMS)]


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


class Pong(_Frame, frozen=True, tag="pong"):
    """Here. `steps` counts engine steps, `active` the requests held: busy without progress
    is how a hung engine is known."""

    nonce: Id
    steps: Count
    active: Count


ToWorker: TypeAlias = Load | Generate | Infer | Embed | Cancel | Ping | Shutdown
ToAgent: TypeAlias = Loaded | LoadFailed | Step | Failed | InferResult | EmbedResult | Pong

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
