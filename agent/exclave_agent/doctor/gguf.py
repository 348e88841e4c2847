"""The few numbers in a GGUF file's header from which the size of a context follows; pure.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Whatever is not understood
ends the reading: an estimate is better than none, and none is better than a crash.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

HEADER_BYTES: Final = 1 << 20
"""The keys that count stand before the vocabulary, near the beginning."""
_MOST_KEYS: Final = 256
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Shape:
    """What one token of context costs, and how many the model was trained for."""

    token_bytes: int
    """Keys and values of one token in all layers, half precision."""
    trained: int
    """0: not said."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        assert isinstance(value, int | float)
        return value

    def text(self) -> str:
        length = int(self.number("Q"))
        if length > len(self._data) - self._at:
            raise struct.error("beyond what was read")
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def value(self, kind: int) -> Value:
        """Of an array its greatest number: hybrid models have one for each layer."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = int(self.number("I")), int(self.number("Q"))
        if count > len(self._data):
            raise struct.error("beyond what was read")
        values = [self.value(inner) for _ in range(count)]
        numbers = [one for one in values if isinstance(one, int | float)]
        return max(numbers, default=0)


def read_shape(data: bytes) -> Shape | None:
    """From the beginning of a file; None when it does not say enough."""
    keys = _keys(data)
    name = keys.get("general.architecture")

    def number(key: str, default: int = 0) -> int:
        value = keys.get(f"{name}.{key}", default)
        return int(value) if isinstance(value, int | float) else default

    layers, width = number("block_count"), number("embedding_length")
    heads = number("attention.head_count")
    if not (layers and width and heads):
        return None
    held = number("attention.head_count_kv", heads)
    each = width // heads
    row = number("attention.key_length", each) + number("attention.value_length", each)
    return Shape(token_bytes=layers * held * row * 2, trained=number("context_length"))


def _keys(data: bytes) -> dict[str, Value]:
    found: dict[str, Value] = {}
    reader = _Reader(data)
    try:
        if data[:4] != b"GGUF":
            return found
        reader.number("I")  # the magic
        reader.number("I")  # the version
        reader.number("Q")  # how many tensors
        for _ in range(min(int(reader.number("Q")), _MOST_KEYS)):
            key = reader.text()
            if key.startswith("tokenizer."):
                break  # the long part; what counts stands before it
            found[key] = reader.value(int(reader.number("I")))
    except (struct.error, KeyError, RecursionError):
        pass  # what was read so far may be enough
    return found
