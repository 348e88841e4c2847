"""Similarity of questions: the nearest of many vectors, in plain Python, off the event loop."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from math import fsum, sqrt
from operator import mul

from exclave_agent.ports import Generate

from .bodies import float32

MAX_CANDIDATES = 256
"""Newest kept questions that one lookup compares: a few milliseconds of a reader's thread, which
shares the interpreter with the event loop."""
_HEAD = 64
"""Dimensions that are looked at first."""
_SLACK = 1e-5
"""More than 32-bit rounding can add to a product of unit vectors."""


def question_of(request: Generate) -> str | None:
    """The last user message, when nothing follows it; None: there is no question to compare."""
    if not request.messages:
        return None
    last = request.messages[-1]
    return last.content if last.role == "user" and not last.name else None


def pack(vector: Sequence[float]) -> bytes:
    """A vector scaled to length 1, as 32-bit little-endian floats; b"" when it has no length."""
    length = sqrt(fsum(x * x for x in vector))
    if not 0 < length < float("inf"):
        return b""
    return float32([x / length for x in vector])


def nearest(
    candidates: Iterable[tuple[bytes, bytes]], vector: bytes, threshold: float
) -> tuple[bytes, float] | None:
    """The key and cosine similarity of the candidate most like `vector`, if `threshold` or more.

    All vectors are of length 1 (`pack`). What two of them have in common beyond the first
    dimensions is bounded by the lengths of their rests (Cauchy and Schwarz): most candidates are
    left after a look at those, and never one that would have won.
    """
    wanted = _unpack(vector)
    head = wanted[:_HEAD]
    rest = sqrt(max(0.0, 1.0 - sum(map(mul, head, head))))
    best: tuple[bytes, float] | None = None
    least = threshold
    for key, packed in candidates:
        if len(packed) != len(vector):
            continue  # of another embedding model
        found = _unpack(packed)
        start = found[:_HEAD]
        common = sum(map(mul, head, start))
        others = sqrt(max(0.0, 1.0 - sum(map(mul, start, start))))
        if common + rest * others < least - _SLACK:
            continue
        similarity = sum(map(mul, wanted, found))
        if similarity >= least - (_SLACK if best is None else 0.0):
            best = (key, min(similarity, 1.0))
            least = max(least, similarity)
    return best


def _unpack(packed: bytes) -> array[float]:
    values = array("f")
    values.frombytes(packed)
    if sys.byteorder == "big":
        values.byteswap()
    return values
