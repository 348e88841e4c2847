"""Leaves: one encoding each, every field checked, the chain followed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.canonical import encode
from exclave_protocol.leaf import (
    MAX_LEAF,
    NO_PREV,
    Leaf,
    LeafError,
    LeafType,
    check_follows,
    decode_leaf,
    encode_leaf,
    format_time,
    parse_time,
)

LEAF = Leaf(
    log="exclave.test/acme/edge-1/e1",
    epoch=1,
    seq=42,
    prev=bytes(range(32)),
    type=LeafType.INTENT,
    time_ns=1_795_383_000_123_456_789,
    body={"decision": "ab" * 16, "params": {"max_tokens": 64, "temperature": "0.7"}},
    sd=("3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",),
)


def changed(**fields: Any) -> bytes:
    """LEAF's JSON with some fields replaced, or removed when None."""
    value = json.loads(encode_leaf(LEAF))
    for name, content in fields.items():
        if content is None:
            del value[name]
        else:
            value[name] = content
    return encode(value)


def test_round_trip() -> None:
    data = encode_leaf(LEAF)
    assert decode_leaf(data) == LEAF
    assert encode_leaf(decode_leaf(data)) == data


def test_without_private_fields_there_is_no_sd() -> None:
    data = encode_leaf(replace(LEAF, sd=()))
    assert b'"sd"' not in data
    assert decode_leaf(data).sd == ()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"v": 2}, "v: not 1"),
        ({"v": True}, "v: not 1"),
        ({"extra": 1}, "not an object with"),
        ({"body": None}, "not an object with"),
        ({"body": []}, "body: not an object"),
        ({"log": ""}, "log:"),
        ({"log": "a b"}, "log:"),
        ({"log": "a+b"}, "log:"),
        ({"log": "x" * 256}, "log:"),
        ({"log": 5}, "log:"),
        ({"epoch": 1}, "epoch:"),
        ({"epoch": "01"}, "epoch:"),
        ({"seq": "-1"}, "seq:"),
        ({"seq": str(2**63)}, "seq:"),
        ({"seq": "٣"}, "seq:"),
        ({"prev": "AB" * 32}, "prev:"),
        ({"prev": "ab" * 31}, "prev:"),
        ({"seq": "0"}, "prev: not zero"),
        ({"type": "PARTY"}, "type:"),
        ({"type": ["INTENT"]}, "type:"),
        ({"type": {}}, "type:"),
        ({"time": "2026-11-22T21:30:00Z"}, "time:"),
        ({"time": "2026-02-30T21:30:00.000000000Z"}, "time:"),
        ({"time": "2026-11-22T21:30:60.000000000Z"}, "time:"),
        ({"time": "1969-12-31T23:59:59.000000000Z"}, "time:"),
        ({"time": 5}, "time:"),
        ({"sd": []}, "sd:"),
        ({"sd": "x"}, "sd:"),
        ({"sd": ["short"]}, "sd:"),
        ({"sd": ["A" * 42 + "B"]}, "sd:"),
        ({"sd": ["B" + "A" * 42, "A" * 43]}, "sorted"),
        ({"sd": ["A" * 43, "A" * 43]}, "repeat"),
    ],
)
def test_decode_names_the_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(LeafError, match=reason):
        decode_leaf(changed(**fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"log": "a b"}, "log:"),
        ({"seq": -1}, "seq"),
        ({"epoch": 2**63}, "epoch"),
        ({"prev": b"short"}, "prev:"),
        ({"seq": 0}, "prev:"),
        ({"time_ns": -1}, "time:"),
        ({"time_ns": 2**63}, None),
        ({"time_ns": 253_402_300_800 * 10**9}, "time:"),
        ({"sd": ("B" + "A" * 42, "A" * 43)}, "sorted"),
        ({"body": {"temperature": 0.7}}, "body: float"),
        ({"body": {"text": "x" * MAX_LEAF}}, "limit is 65535"),
    ],
)
def test_encode_refuses_what_decode_would(fields: dict[str, Any], reason: str | None) -> None:
    leaf = replace(LEAF, **fields)
    if reason is None:
        assert decode_leaf(encode_leaf(leaf)) == leaf
        return
    with pytest.raises(LeafError, match=reason):
        encode_leaf(leaf)


def test_a_leaf_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(LeafError, match="limit is 65535"):
        decode_leaf(b" " * (MAX_LEAF + 1))


@given(st.integers(0, 253_402_300_799 * 10**9))
@settings(max_examples=200, deadline=None)
def test_times_round_trip_to_the_nanosecond(time_ns: int) -> None:
    assert parse_time(format_time(time_ns)) == time_ns


FIRST = replace(LEAF, seq=0, prev=NO_PREV, type=LeafType.GENESIS)


@pytest.mark.parametrize(
    ("leaf", "seq", "prev", "reason"),
    [
        (replace(LEAF, log="other/log"), 42, LEAF.prev, "log:"),
        (replace(LEAF, epoch=2), 42, LEAF.prev, "epoch:"),
        (LEAF, 43, LEAF.prev, "seq:"),
        (LEAF, 42, NO_PREV, "prev:"),
        (replace(FIRST, type=LeafType.BOOT), 0, NO_PREV, "GENESIS"),
        (replace(LEAF, type=LeafType.GENESIS), 42, LEAF.prev, "GENESIS"),
    ],
)
def test_a_leaf_must_follow_the_one_before(leaf: Leaf, seq: int, prev: bytes, reason: str) -> None:
    check_follows(LEAF, log=LEAF.log, epoch=1, seq=42, prev=LEAF.prev)
    check_follows(FIRST, log=LEAF.log, epoch=1, seq=0, prev=NO_PREV)
    with pytest.raises(LeafError, match=reason):
        check_follows(leaf, log=LEAF.log, epoch=1, seq=seq, prev=prev)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_raise_only_leaf_errors(data: st.DataObject) -> None:
    good = bytearray(encode_leaf(LEAF))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(good) - 1))
        good[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        leaf = decode_leaf(bytes(good))
    except LeafError:
        return
    assert encode_leaf(leaf) == bytes(good)
