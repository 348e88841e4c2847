"""What a worker says, checked before anybody relies on it: a model's file may have subverted it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

import msgspec

from exclave_agent.errors import WorkerCrashed
from exclave_agent.ports import Embeddings, Scores, Tensor
from exclave_agent.runtimes import frames

ACTIONS = {"llama": {"chat", "complete", "embed", "rerank"}, "onnx": {"infer"}}
"""What a runtime's models can offer."""
OVERHEAD = 16
"""Tokens that are neither text nor counted by its bytes: a beginning, an end, a separator."""
WIDTHS = {
    "BOOL": 1,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "FP16": 2,
    "BF16": 2,
    "INT32": 4,
    "UINT32": 4,
    "FP32": 4,
    "INT64": 8,
    "UINT64": 8,
    "FP64": 8,
}
"""Bytes of one element; those of BYTES have lengths of their own."""
MOST_NOTE = 500


def loaded(said: frames.Loaded, runtime: str) -> frames.Loaded:
    """What can be shown to an operator, and offered to callers."""
    provider = said.provider
    plain = provider.isascii() and provider.replace("_", "").isalnum() and len(provider) <= 32
    return msgspec.structs.replace(
        said,
        actions=[one for one in said.actions if one in ACTIONS.get(runtime, ())],
        provider=provider if plain else "unknown",
        degraded=note(said.degraded),
    )


def note(text: str) -> str:
    """One line without control characters, which terminals and logs would obey."""
    return "".join(one if one.isprintable() else " " for one in text[:MOST_NOTE])


def embeddings(said: object, texts: Sequence[str]) -> Embeddings:
    """A vector for each text. Raises: WorkerCrashed ("engine_failed")."""
    if not isinstance(said, frames.EmbedResult) or len(said.vectors) != len(texts):
        raise unbelievable("has not one vector for each text")
    if len({len(one) for one in said.vectors}) > 1 or any(len(one) % 4 for one in said.vectors):
        raise unbelievable("has vectors of different lengths")
    vectors = tuple(tuple(array("f", one)) for one in said.vectors)
    if not all(_finite(one) for one in vectors):
        raise unbelievable("has a vector that is not finite")
    return Embeddings(vectors, min(said.prompt_tokens, _most_tokens(texts)))


def scores(said: object, query: str, documents: Sequence[str]) -> Scores:
    """A score for each document. Raises: WorkerCrashed ("engine_failed")."""
    if not isinstance(said, frames.RerankResult) or len(said.scores) != len(documents):
        raise unbelievable("has not one score for each document")
    if not _finite(said.scores):
        raise unbelievable("has a score that is not finite")
    # The query is read again with each of them.
    most = _most_tokens(documents) + len(documents) * _most_tokens((query,))
    return Scores(tuple(said.scores), min(said.prompt_tokens, most))


def tensors(said: object) -> list[Tensor]:
    """Tensors whose data are as long as their shapes say. Raises: WorkerCrashed
    ("engine_failed")."""
    if not isinstance(said, frames.InferResult):
        raise unbelievable("is of another kind")
    for one in said.outputs:
        width = WIDTHS.get(one.datatype)
        if one.datatype != "BYTES" and (
            width is None or len(one.data) != width * math.prod(one.shape)
        ):
            raise unbelievable("has a tensor whose data do not fit its shape")
    return [
        Tensor(one.name, one.datatype, tuple(one.shape), bytes(one.data)) for one in said.outputs
    ]


def logprob(value: float) -> float:
    """A natural logarithm of a probability; what is none, or of nothing, is -9999."""
    return min(max(value, -9999.0), 0.0) if value == value else -9999.0


def wait(seconds: float | None) -> float | None:
    """Seconds to try again after; None: none that anybody could wait for."""
    return seconds if seconds is not None and 0.0 <= seconds <= 3600.0 else None


def unbelievable(what: str) -> WorkerCrashed:
    """An answer that nobody can use."""
    return WorkerCrashed(f"the model's answer {what}", code="engine_failed")


def _finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _most_tokens(texts: Sequence[str]) -> int:
    """No tokeniser makes more of them: a token is a byte at least."""
    return sum(len(one.encode("utf-8", "replace")) + OVERHEAD for one in texts)
