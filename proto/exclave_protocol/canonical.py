"""One byte string per JSON value: the RFC 8785 subset in which everything hashed is written.

The subset: null, booleans, integers of at most 2**53-1, strings of Unicode scalar values,
arrays, and objects with ASCII keys, nested at most 32 deep. No floats: decimals and 64-bit
integers travel as strings. Within it, RFC 8785 is "sorted keys, no white space, shortest
escapes", which msgspec writes in C; without msgspec the standard library writes the same
bytes (tests hold both against the `rfc8785` library).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from .errors import CanonicalError as CanonicalError

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_INT = 2**53 - 1
"""Largest magnitude that every JSON reader keeps exact (RFC 7493)."""
MAX_DEPTH = 32
"""Containers within containers; the outermost counts as 1."""
DEFAULT_LIMIT = 65_535
"""Bytes that `decode` accepts unless told otherwise."""


def _encode_stdlib(value: JsonValue) -> bytes:
    return _STDLIB.encode(value).encode("utf-8")


def _decode_stdlib(data: bytes) -> JsonValue:
    value: JsonValue = json.loads(data.decode("utf-8"))
    return value


_STDLIB = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)
_encode_fast: Callable[[JsonValue], bytes] = _encode_stdlib
_decode_fast: Callable[[bytes], JsonValue] = _decode_stdlib
try:
    import msgspec
except ImportError:  # the auditor's install: cryptography and the standard library only
    pass
else:
    _encode_fast = msgspec.json.Encoder(order="sorted").encode
    _decode_fast = msgspec.json.Decoder().decode


def _check(value: object, depth: int) -> None:
    """Refuse whatever is outside the subset; exact types only, so that both writers agree."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_INT <= value <= MAX_INT:  # type: ignore[operator]  # kind is int
            raise CanonicalError("integer beyond 2**53-1: write it as a string")
        return
    if kind is not dict and kind is not list:
        raise CanonicalError(f"{kind.__name__} has no canonical form: use str, int, list or dict")
    if depth >= MAX_DEPTH:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH} levels: flatten it")
    depth += 1
    if kind is list:
        for item in value:  # type: ignore[attr-defined]  # kind is list
            if type(item) is not str:
                _check(item, depth)
        return
    for key, item in value.items():  # type: ignore[attr-defined]  # kind is dict
        if type(key) is not str or not key.isascii():
            raise CanonicalError("object key is not an ASCII string: rename it")
        if type(item) is not str:
            _check(item, depth)


def encode(value: JsonValue) -> bytes:
    """The canonical bytes of `value`.

    Raises: CanonicalError when the value is outside the subset (float, big integer, deep
    nesting, non-ASCII key, lone surrogate, foreign type).
    """
    _check(value, 0)
    try:
        return _encode_fast(value)
    except UnicodeEncodeError:
        raise CanonicalError("string holds a lone surrogate: not a Unicode text") from None


def decode(data: bytes, *, limit: int = DEFAULT_LIMIT) -> JsonValue:
    """The value of which `data` is the one canonical form.

    Encoding again and comparing refuses in one stroke duplicate keys, other key orders,
    white space, redundant escapes, "-0" and exponents.

    Raises: CanonicalError; never anything else, whatever the bytes.
    """
    if len(data) > limit:
        raise CanonicalError(f"{len(data)} bytes of JSON: the limit is {limit}")
    try:
        value = _decode_fast(data)
    except (ValueError, RecursionError):
        # msgspec's and json's errors are ValueErrors; their text may quote the data.
        raise CanonicalError("not JSON in UTF-8, or nested too deep") from None
    if encode(value) != data:
        raise CanonicalError(
            "not canonical JSON (RFC 8785): duplicate or unsorted keys, white space, "
            "needless escapes, or a number in another form"
        )
    return value
