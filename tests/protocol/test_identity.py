"""Names, SPIFFE IDs and join tokens: what is written is read back; all else is refused."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import (
    ROLES,
    JoinToken,
    SpiffeId,
    check_endpoint,
    parse_role,
    role_uri,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
tokens = st.builds(
    JoinToken,
    tenant=names,
    token_id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    secret=st.binary(min_size=32, max_size=32),
    endpoint=st.sampled_from(["localhost:7444", "10.0.0.1:1", "[::1]:65535", "a.example.org:443"]),
    ca_sha256=hexes,
    root_pin=hexes,
    agent=st.one_of(st.just(""), names),
)
TOKEN = JoinToken("acme", "0" * 32, b"s" * 32, "localhost:7444", "a" * 64, "b" * 64, "north")


def text_of(value: object) -> str:
    """A token's text with any content."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return "exj1." + base64.urlsafe_b64encode(data).decode().rstrip("=")


def fields() -> dict[str, object]:
    """The good token's content."""
    text = TOKEN.encode()[5:]
    value: dict[str, object] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return value


@given(names, names)
def test_spiffe_ids_are_read_back(tenant: str, agent: str) -> None:
    for made in (
        SpiffeId.agent("example.org", tenant, agent),
        SpiffeId.operator("example.org", agent),
        SpiffeId.coordinator("example.org"),
    ):
        assert SpiffeId.parse(str(made)) == made


def test_spiffe_ids_are_written_as_the_design_says() -> None:
    assert str(SpiffeId.agent("d.org", "t", "a")) == "spiffe://d.org/tenant/t/agent/a"
    assert str(SpiffeId.operator("d.org", "o")) == "spiffe://d.org/operator/o"
    assert str(SpiffeId.coordinator("d.org")) == "spiffe://d.org/coordinator"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://d.org/coordinator",
        "SPIFFE://d.org/coordinator",
        "spiffe://d.org",
        "spiffe://d.org/",
        "spiffe://d.org/coordinator/",
        "spiffe://d.org/coordinator?x",
        "spiffe://D.org/coordinator",
        "spiffe://d.org:443/coordinator",
        "spiffe://user@d.org/coordinator",
        "spiffe:///coordinator",
        "spiffe://d.org/tenant/t/agent/",
        "spiffe://d.org/tenant/t/agent/a/b",
        "spiffe://d.org/tenant/../agent/a",
        "spiffe://d.org/tenant/T/agent/a",
        "spiffe://d.org/tenant/t/agent/a\n",
        "spiffe://d.org/tenant/-t/agent/a",
        "spiffe://d.org/operator/" + "a" * 64,
        "spiffe://d.org/role/admin",
        "spiffe://" + "a" * 3000 + "/coordinator",
    ],
)
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(IdentityFormatError):
        SpiffeId.parse(text)


@pytest.mark.parametrize("role", ROLES)
def test_roles(role: str) -> None:
    assert parse_role(role_uri("d.org", role)) == ("d.org", role)


@pytest.mark.parametrize(
    "text", ["spiffe://d.org/role/root", "spiffe://d.org/role", "spiffe://d.org/operator/admin"]
)
def test_other_roles_are_refused(text: str) -> None:
    with pytest.raises(IdentityFormatError):
        parse_role(text)
    with pytest.raises(IdentityFormatError):
        role_uri("d.org", "root")


@given(tokens)
def test_join_tokens_are_read_back(token: JoinToken) -> None:
    text = token.encode()
    assert JoinToken.decode(f"  {text}\n") == token
    assert text.isascii()
    assert not set(text) & set(" \n=+/")


def test_a_tokens_secret_is_not_in_its_repr() -> None:
    assert "secret" not in repr(TOKEN)
    assert "ssss" not in repr(TOKEN)


@given(st.integers(min_value=5), st.characters(codec="ascii"))
def test_a_changed_token_is_refused_or_another_token(position: int, letter: str) -> None:
    text = TOKEN.encode()
    position = 5 + position % (len(text) - 5)
    changed = text[:position] + letter + text[position + 1 :]
    try:
        read = JoinToken.decode(changed)
    except IdentityFormatError:
        return
    # No second spelling of the same token: what is read is what the text says.
    assert (read == TOKEN) == (changed.strip() == text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tenant", "No"),
        ("tenant", 1),
        ("id", "0" * 31),
        ("id", "G" * 32),
        ("secret", "AAAA"),
        ("secret", "***"),
        ("endpoint", "localhost"),
        ("endpoint", "localhost:0"),
        ("endpoint", "localhost:70000"),
        ("endpoint", "user@localhost:1"),
        ("ca", "a" * 63),
        ("root", ""),
        ("root", "A" * 64),
        ("agent", "-"),
        ("extra", "x"),
    ],
)
def test_a_token_with_a_bad_field_is_refused(key: str, value: object) -> None:
    with pytest.raises(IdentityFormatError):
        JoinToken.decode(text_of(fields() | {key: value}))


@pytest.mark.parametrize("key", sorted(fields()))
def test_a_token_without_a_field_is_refused(key: str) -> None:
    value = fields()
    del value[key]
    with pytest.raises(IdentityFormatError, match="exactly the fields"):
        JoinToken.decode(text_of(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exj1.",
        "exj2." + TOKEN.encode()[5:],
        TOKEN.encode()[5:],
        TOKEN.encode() + "=",
        TOKEN.encode()[:-3],
        TOKEN.encode() + "é",
        text_of([]),
        text_of(1),
        "exj1." + "A" * 4000,
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(IdentityFormatError):
        JoinToken.decode(text)


def test_endpoints() -> None:
    assert check_endpoint("[2001:db8::1]:7443") == "[2001:db8::1]:7443"
    for bad in ("::1:7443", "host:", ":1", "host:1/x", "ho st:1", "host:99999"):
        with pytest.raises(IdentityFormatError):
            check_endpoint(bad)
