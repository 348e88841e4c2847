"""The parameters that a signed manifest may give a model, with their defaults and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

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
    """Keep template words and system messages in a slot for the next request that begins with
    them. Without it a greedy answer never hangs on what the slot answered before."""
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=10_000)] = -1
    """Layers on the GPU where the build has one; -1: all."""


class OnnxParameters(Parameters):
    """For ONNX models."""

    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Rows of several requests run together; 1: none. Whoever signs more says that the model
    treats each row by itself: rows of different callers then share a tensor."""
    max_wait_us: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 500
    """Microseconds the first request of a batch waits for others."""


P = TypeVar("P", bound=Parameters)


def read_parameters(kind: type[P], given: Mapping[str, int | str | bool]) -> P:
    """Check types, names and bounds.

    Raises: ValueError naming the parameter and what it may be.
    """
    try:
        return msgspec.convert(dict(given), kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"parameters: {str(error)[:300]}") from error
