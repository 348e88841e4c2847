"""Tensors between the Open Inference Protocol's JSON and little-endian bytes, without numpy."""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import Any

from exclave_agent.decide.texts import CODES, packed
from exclave_agent.errors import BadRequest
from exclave_agent.ports import Tensor

_ELEMENTS: dict[str, frozenset[type]] = {
    "?": frozenset({bool}),
    "e": frozenset({int, float}),
    "f": frozenset({int, float}),
    "d": frozenset({int, float}),
}
_INT = frozenset({int})
MAX_RANK = 16
MAX_SIZE = 2**31 - 1
"""Of one dimension; more is a mistake, and would not fit the record's integers."""


def check_shape(shape: list[int], place: str) -> int:
    """How many elements the shape holds. Raises: BadRequest."""
    if len(shape) > MAX_RANK or not all(0 <= size <= MAX_SIZE for size in shape):
        raise BadRequest(
            f"{place}.shape: not 0 to {MAX_RANK} sizes, each from 0 to {MAX_SIZE}",
            param=f"{place}.shape",
        )
    return math.prod(shape)


def from_json(name: str, datatype: str, shape: list[int], data: Any, place: str) -> Tensor:
    """A tensor of nested or flat JSON arrays. Raises: BadRequest naming the place."""
    count = check_shape(shape, place)
    values = _flatten(data, shape, place)
    if len(values) != count:
        raise BadRequest(
            f"{place}.data: {len(values)} elements, and the shape holds {count}",
            param=f"{place}.data",
        )
    return Tensor(name, datatype, tuple(shape), _pack(datatype, values, place))


def _flatten(data: Any, shape: list[int], place: str) -> list[Any]:
    """Row-major elements of an array nested as `shape` says, or flat."""
    if not isinstance(data, list):
        raise BadRequest(f"{place}.data: not an array", param=f"{place}.data")
    if len(shape) < 2 or not data or not isinstance(data[0], list):
        return data
    level = data
    if len(level) != shape[0]:
        raise _ragged(place)
    for size in shape[1:]:
        if not all(isinstance(row, list) and len(row) == size for row in level):
            raise _ragged(place)
        level = list(chain.from_iterable(level))
    return level


def _ragged(place: str) -> BadRequest:
    return BadRequest(f"{place}.data: not nested as the shape says", param=f"{place}.data")


def _pack(datatype: str, values: list[Any], place: str) -> bytes:
    kinds = set(map(type, values))
    if datatype == "BYTES":
        if not kinds <= {str}:
            raise BadRequest(f"{place}.data: BYTES takes strings", param=f"{place}.data")
        return packed(value.encode() for value in values)
    code = code_of(datatype, place)
    if not kinds <= _ELEMENTS.get(code, _INT):
        raise BadRequest(
            f"{place}.data: an element is not of datatype {datatype}", param=f"{place}.data"
        )
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        raise BadRequest(
            f"{place}.data: an element is beyond the range of {datatype}", param=f"{place}.data"
        ) from None


def code_of(datatype: str, place: str) -> str:
    """The `struct` code of a fixed-size datatype. Raises: BadRequest."""
    code = CODES.get(datatype)
    if code is None:
        raise BadRequest(
            f"{place}.datatype: one of {', '.join(sorted(CODES))} or BYTES",
            param=f"{place}.datatype",
        )
    return code


def from_bytes(
    name: str, datatype: str, shape: list[int], data: bytes | memoryview, place: str
) -> Tensor:
    """A tensor sent as raw bytes, which are not copied.

    Raises: BadRequest unless their size fits the shape.
    """
    count = check_shape(shape, place)
    if datatype == "BYTES":
        elements = len(_elements(data, place))
        if elements != count:
            raise BadRequest(
                f"{place}: {elements} elements, and the shape holds {count}", param=place
            )
    else:
        want = count * struct.calcsize(f"<{code_of(datatype, place)}")
        if len(data) != want:
            raise BadRequest(
                f"{place}: {len(data)} bytes, and shape and datatype need {want}", param=place
            )
    return Tensor(name, datatype, tuple(shape), data)


def _elements(data: bytes | memoryview, place: str) -> list[bytes | memoryview]:
    """The strings of a BYTES tensor: each after its length, 4 bytes little-endian."""
    found: list[bytes | memoryview] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise BadRequest(f"{place}: a BYTES element is cut short", param=place)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def to_json(tensor: Tensor) -> list[Any]:
    """The elements, flat and row-major, as Triton returns them. NaN and infinities, which JSON
    does not have, become null.

    Raises: BadRequest when a BYTES element is not UTF-8: ask for binary data then.
    """
    place = f"outputs.{tensor.name}"
    if tensor.datatype == "BYTES":
        try:
            return [str(element, "utf-8") for element in _elements(tensor.data, place)]
        except UnicodeDecodeError:
            raise BadRequest(
                f"{place}: not UTF-8; ask for it with binary_data", param="outputs"
            ) from None
    code = code_of(tensor.datatype, place)
    count = len(tensor.data) // struct.calcsize(f"<{code}")
    return list(struct.unpack(f"<{count}{code}", tensor.data))
