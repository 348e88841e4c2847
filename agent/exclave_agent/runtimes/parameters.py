"""The parameters that a signed manifest may give a model, with their defaults and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec

DEFAULT_PARALLEL = 8
DEFAULT_CONTEXT = 2048
DEFAULT_QUEUE = 64

Threads = Annotated[int, msgspec.Meta(ge=0, le=512)]
"""0: as many as there are physical cores for this process."""
Queue = Annotated[int, msgspec.Meta(ge=0, le=16_384)]


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What every runtime takes."""

    threads: Threads = 0
    max_queue: Queue = DEFAULT_QUEUE
    """Requests that may wait for a free slot; one more is answered `Overloaded`."""


class LlamaParameters(Parameters):
    """For GGUF models."""

    n_ctx: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    """Tokens of one sequence, prompt and answer together; 0: `DEFAULT_CONTEXT`, or what the
    model was trained for when that is less."""
    n_parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = DEFAULT_PARALLEL
    """Sequences decoded together."""
    n_batch: Annotated[int, msgspec.Meta(ge=32, le=8192)] = 512
    """Tokens of one decode step: bounds how long a prefill delays the others' next token."""
    embeddings: bool = False
    """Offer `embed`, through a second context over the same weights."""
    reuse_prefix: bool = True
    """Start a request behind tokens that were computed before: template words and system
    messages for everybody, the rest of a conversation for the same caller only. Without it a
    greedy answer never hangs on what was answered before, and nothing of a request is kept."""
    prefix_mib: Annotated[int, msgspec.Meta(ge=-1, le=1 << 20)] = -1
    """MiB of RAM for beginnings that lost their slot; the longest unused goes first. 0: none;
    -1: as much as the slots' own cache, at most 256."""
    prefix_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600
    """Seconds after its last use that a kept beginning is forgotten: it holds what a caller
    wrote."""
    park_mib: Annotated[int, msgspec.Meta(ge=-1, le=1 << 20)] = -1
    """MiB of RAM for the states of batch requests that yielded their slot; what does not fit is
    computed again. 0: none; -1: as much as the slots' own cache, at most 256."""
    batch_share: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    """Percent of the steps that batch requests get however many interactive ones there are."""
    draft_tokens: Annotated[int, msgspec.Meta(ge=0, le=32)] = 8
    """Most tokens guessed ahead from what prompt and answer said before, and checked in one
    step; used only where it pays by the costs measured. 0: none, which also keeps the last bits
    of the logits the same from run to run."""
    flash_attn: Literal["auto", "on", "off"] = "auto"
    """Flash attention. On a CPU it sums in 16 bits: answers may differ in nearly equal tokens."""
    cache_type: Literal["f16", "q8_0"] = "f16"
    """How keys and values are kept; q8_0 halves their memory and needs flash attention."""
    expect_gpu: bool = False
    """The release counts on a GPU: without one the model is served, and reported degraded."""
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=10_000)] = -1
    """Layers on the GPU where the build has one; -1: all."""


class OnnxParameters(Parameters):
    """For ONNX models."""

    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Rows of several requests run together; 1: none. Whoever signs more says that the model
    treats each row by itself: rows of different callers then share a tensor."""
    max_wait_us: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 500
    """Microseconds the first request of a batch waits for others."""
    expect_gpu: bool = False
    """The release counts on a GPU: without one the model is served, and reported degraded."""


P = TypeVar("P", bound=Parameters)


def read_parameters(kind: type[P], given: Mapping[str, int | str | bool]) -> P:
    """Check types, names and bounds.

    Raises: ValueError naming the parameter and what it may be.
    """
    try:
        return msgspec.convert(dict(given), kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"parameters: {str(error)[:300]}") from error
