"""Canonical JSON: both writers equal the reference library, and only canonical bytes are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol import canonical
from exclave_protocol.canonical import CanonicalError, JsonValue, decode, encode

KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGERS = st.integers(-canonical.MAX_INT, canonical.MAX_INT)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_equals_the_rfc_8785_library(value: Any) -> None:
    data = encode(value)
    assert data == rfc8785.dumps(value)
    assert canonical._encode_stdlib(value) == data
    assert decode(data) == value
    assert canonical._decode_stdlib(data) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.0, "float"),
        ({"a": [0.5]}, "float"),
        (2**53, "integer beyond"),
        (-(2**53), "integer beyond"),
        ({"é": 1}, "ASCII"),
        ({1: "x"}, "ASCII"),
        (b"x", "bytes"),
        ((1, 2), "tuple"),
        ("\ud800", "surrogate"),
        ({"a": ["\udfff"]}, "surrogate"),
    ],
)
def test_refuses_values_outside_the_subset(value: Any, reason: str) -> None:
    with pytest.raises(CanonicalError, match=reason):
        encode(value)


def test_nesting_is_bounded() -> None:
    value: JsonValue = "deep"
    for _ in range(canonical.MAX_DEPTH):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(CanonicalError, match="deeper"):
        encode([value])
    with pytest.raises(CanonicalError):
        decode(b"[" * 60_000 + b"]" * 5_000)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b"1.0",
        b"1e2",
        b"-0",
        b"9007199254740992",
        b"99999999999999999999999",
        b"9" * 5000,
        b'"\\u0041"',
        b'"\\/"',
        b'"\\u000A"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"NaN",
        b"Infinity",
        b"",
        b"1 2",
        '"a"'.encode("utf-16"),
    ],
)
@pytest.mark.parametrize("reader", ["msgspec", "stdlib"])
def test_refuses_bytes_that_are_not_canonical(
    data: bytes, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "stdlib":
        monkeypatch.setattr(canonical, "_decode_fast", canonical._decode_stdlib)
        monkeypatch.setattr(canonical, "_encode_fast", canonical._encode_stdlib)
    with pytest.raises(CanonicalError):
        decode(data)


def test_length_is_bounded_before_parsing() -> None:
    with pytest.raises(CanonicalError, match="limit is 10"):
        decode(b'"' + b"a" * 20 + b'"', limit=10)


def test_errors_never_quote_the_data() -> None:
    with pytest.raises(CanonicalError) as caught:
        decode(b'{"a":"the secret"')
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=300, deadline=None)
def test_reading_any_bytes_either_round_trips_or_refuses(data: bytes) -> None:
    try:
        value = decode(data)
    except CanonicalError:
        return
    assert encode(value) == data


# --- RFC 8785's own examples, as far as they have neither floats nor keys beyond ASCII -----------

PUBLISHED = {
    # Section 3.2.2, and the bytes of 3.2.4 without `numbers`.
    '{"literals": [null, true, false], "string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022'
    '\\u005c\\\\\\"\\/"}': "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c22"
    "737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f227d",
    # Appendix B's integers that are exact in every reader.
    "[0, 9007199254740991, -9007199254740991]": "5b302c393030373139393235343734303939312c2d393030"
    "373139393235343734303939315d",
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_the_examples_of_rfc_8785(text: str) -> None:
    expected = bytes.fromhex(PUBLISHED[text])
    assert encode(json.loads(text)) == expected
    assert decode(expected) == json.loads(text)
    with pytest.raises(CanonicalError):
        decode(text.encode())
