"""Disclosures: RFC 9901's hashing, strict reading, and nothing to guess."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.canonical import encode
from exclave_protocol.disclosure import Disclosure, b64url, digest, make, parse
from exclave_protocol.errors import DisclosureError

SALT = bytes(range(32))


def encoded(value: Any) -> str:
    """Base64url of some canonical JSON."""
    return b64url(encode(value))


def test_rfc_9901s_own_digest() -> None:
    # RFC 9901 section 4.2.3: the disclosure of "family_name" and its digest.
    text = "WyJfMjZiYzRMVC1hYzZxMktJNmNCVzVlcyIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0"
    assert digest(text) == "X9yH0Ajrdm1Oij4tWso9UzzKJvPoDxwmuEcO3XAdRC0"


def test_round_trip() -> None:
    made = make("prompt", [{"role": "user", "content": "grüezi"}], SALT)
    assert parse(made.encoded) == made
    assert made.digest == b64url(sha256(made.encoded.encode()).digest())
    assert len(made.digest) == 43


def test_equal_values_with_other_salts_do_not_show() -> None:
    assert make("answer", "yes", SALT).digest != make("answer", "yes", SALT[::-1]).digest


@pytest.mark.parametrize(
    ("name", "value", "salt", "reason"),
    [
        ("", 1, SALT, "name"),
        ("_sd", 1, SALT, "name"),
        ("...", 1, SALT, "name"),
        ("a b", 1, SALT, "name"),
        ("x" * 65, 1, SALT, "name"),
        ("prompt", 1, b"short", "salt: 5 bytes"),
        ("prompt", 0.5, SALT, "prompt: float"),
        ("prompt", "x" * 7_000_000, SALT, "longer than"),
    ],
)
def test_make_refuses(name: str, value: Any, salt: bytes, reason: str) -> None:
    with pytest.raises(DisclosureError, match=reason):
        make(name, value, salt)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "é",
        "a b",
        "AB",
        "A",
        encoded([]),
        encoded(["salt", "name"]),
        encoded([b64url(SALT), "name", 1, 2]),
        encoded([b64url(SALT[1:]), "name", 1]),
        encoded([b64url(SALT) + "=", "name", 1]),
        encoded([b64url(SALT), "_sd", 1]),
        encoded([b64url(SALT), 1, 1]),
        encoded([1, "name", 1]),
        encoded({"salt": 1}),
        b64url(b'["' + b64url(SALT).encode() + b'", "name", 1]'),
        urlsafe_b64encode(encode([b64url(SALT), "name", 12])).decode() + "=",
        "A" * (8 * 1024 * 1024 + 1),
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(DisclosureError):
        parse(text)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_hostile_text_raises_only_disclosure_errors(data: st.DataObject) -> None:
    good = make("prompt", "value", SALT).encoded
    place = data.draw(st.integers(0, len(good) - 1))
    text = good[:place] + data.draw(st.text(max_size=3)) + good[place + 1 :]
    try:
        opened = parse(text)
    except DisclosureError:
        return
    assert isinstance(opened, Disclosure)
    assert opened.encoded == text
    assert (opened.digest == make("prompt", "value", SALT).digest) == (text == good)
