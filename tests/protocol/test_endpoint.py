"""Endpoint documents: what they permit, their exact bytes, and what is refused by its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_protocol.endpoint import Endpoint, EndpointTimeouts, check_secret_name, micro
from exclave_protocol.errors import ReleaseError
from exclave_testing.vectors import FOLDER, endpoint_vectors

LEAST: dict[str, Any] = {
    "schema": "exclave.endpoint/v1",
    "provider": "openai",
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-5-mini",
    "actions": ["embed", "chat"],
    "data_classes": ["public", ""],
}
AZURE = {"provider": "azure", "api_version": "2024-10-21", "secret": "main"}
PRICE = {"currency": "EUR", "input": "0.15", "output": "0.6"}


def draft(**fields: Any) -> Endpoint:
    """What a person wrote, with some fields set (or with `...`: removed)."""
    value = {key: item for key, item in (LEAST | fields).items() if item is not ...}
    return Endpoint.draft(json.dumps(value, indent=2).encode())


def test_what_is_left_out_has_its_default() -> None:
    endpoint = draft()
    assert endpoint.actions == ("chat", "embed")
    assert endpoint.data_classes == ("", "public")
    assert endpoint.timeouts == EndpointTimeouts()
    assert (endpoint.secret, endpoint.price, endpoint.auth) == ("", None, "bearer")
    assert draft(**AZURE).auth == "api-key"
    assert draft(timeouts_ms={"total": 90_000}).timeouts == EndpointTimeouts(5_000, 60_000, 90_000)
    assert draft(price=None, data_classes=[]).data_classes == ()
    assert endpoint.host == "api.openai.com"


def test_the_signed_form_is_read_back() -> None:
    endpoint = draft(price=PRICE, headers={"x-goog-user-project": "p-1"}, **AZURE)
    assert Endpoint.decode(endpoint.encode()) == endpoint
    assert Endpoint.draft(endpoint.encode()) == endpoint


def test_frozen_documents_are_read() -> None:
    for vector in json.loads((FOLDER / "endpoint.json").read_text(encoding="utf-8")):
        data = vector["document"].encode()
        assert Endpoint.decode(data).encode() == data
    assert endpoint_vectors()


@pytest.mark.parametrize("field", sorted(json.loads(draft().encode())))
def test_a_signed_document_has_every_field(field: str) -> None:
    value = json.loads(draft().encode())
    del value[field]
    with pytest.raises(ReleaseError):
        Endpoint.decode(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def test_a_signed_document_is_canonical() -> None:
    with pytest.raises(ReleaseError, match="canonical"):
        Endpoint.decode(json.dumps(json.loads(draft().encode()), indent=1).encode())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": "exclave.endpoint/v2"}, "schema"),
        ({"schema": ...}, "schema"),
        ({"provider": "acme"}, "provider"),
        ({"provider": ...}, "provider"),
        ({"provider": 1}, "provider"),
        ({"model": ""}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"actions": []}, "actions"),
        ({"actions": ["infer"]}, "actions"),
        ({"actions": "chat"}, "actions"),
        ({"actions": ...}, "actions"),
        ({"data_classes": ...}, "data_classes"),
        ({"data_classes": ["a b"]}, "data_classes"),
        ({"data_classes": [1]}, "data_classes"),
        ({"data_classes": [str(n) for n in range(65)]}, "data_classes"),
        ({"secret": "sk-Proj_0123"}, "NAME of a key"),
        ({"secret": "../key"}, "secret"),
        ({"secret": "x" * 64}, "secret"),
        ({"auth": "basic"}, "auth"),
        ({"api_version": "1"}, "api_version is for provider azure"),
        ({"deployment": "d"}, "deployment is for provider azure"),
        (AZURE | {"api_version": ""}, "api_version"),
        (AZURE | {"deployment": "a/b"}, "deployment"),
        (AZURE | {"secret": ""}, "secret"),
        ({"context_tokens": -1}, "context_tokens"),
        ({"context_tokens": "8k"}, "context_tokens"),
        ({"context_tokens": True}, "context_tokens"),
        ({"context_tokens": 1.5}, "context_tokens"),
        ({"timeouts_ms": {"connect": 0}}, "connect"),
        ({"timeouts_ms": {"total": 3_600_001}}, "total"),
        ({"timeouts_ms": {"first_token": 900_000}}, "total must be the longest"),
        ({"timeouts_ms": {"read": 1}}, "unknown"),
        ({"timeouts_ms": 5}, "timeouts_ms"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"price": PRICE | {"currency": "eur"}}, "currency"),
        ({"price": PRICE | {"input": 0.15}}, "input"),
        ({"price": PRICE | {"input": "-1"}}, "input"),
        ({"price": PRICE | {"input": "1e3"}}, "input"),
        ({"price": PRICE | {"input": "01"}}, "input"),
        ({"price": PRICE | {"output": "0.1234567"}}, "output"),
        ({"price": PRICE | {"output": "1000000.5"}}, "output"),
        ({"price": PRICE | {"cached_input": "x"}}, "cached_input"),
        ({"price": {"currency": "EUR", "input": "1"}}, "output"),
        ({"price": PRICE | {"per": "1k"}}, "unknown"),
        ({"organization": "a b"}, "organization"),
        ({"project": "p\r\nx-other: 1"}, "project"),
        ({"headers": {"authorization": "Bearer x"}}, "headers"),
        ({"headers": {"x-goog-user-project": "a\r\nb"}}, "x-goog-user-project"),
        ({"headers": {"x-goog-user-project": 1}}, "headers"),
        ({"headers": []}, "headers"),
        ({"api_key": "sk-123"}, "unknown"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        draft(**fields)
    assert words in caught.value.message
    assert "sk-" not in caught.value.message and "0123" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://e.example",
        "https://e.example/",
        "https://e.example:8443/v1",
        "https://[2001:db8::1]:8443/v1",
        "https://e.example/v1/models/a@b:c",
        "http://127.0.0.1:8000/v1",
        "http://127.8.9.1/v1",
        "http://localhost:8000/v1",
        "http://[::1]:8000/v1",
    ],
)
def test_where_a_request_may_go(url: str) -> None:
    assert draft(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "e.example",
        "//e.example",
        "ftp://e.example",
        "http://e.example/v1",
        "http://127.0.0.1.example/v1",
        "http://localhost.example/v1",
        "http://0.0.0.0/v1",
        "http://169.254.169.254/v1",
        "http://[::ffff:1.2.3.4]/v1",
        "https://user:pass@e.example/v1",
        "https://user@e.example/v1",
        "https://e.example\\@other.example/v1",
        "https://e.example/v1?key=1",
        "https://e.example/v1#x",
        "https://e.example/%2e%2e/",
        "https://e.example/../v1",
        "https://e.example//v1",
        "https://e.example:0/v1",
        "https://[::::]/v1",
        "https://[1.2.3.4]/v1",
        "https://1.2.3.4.5/v1",
        "https://999.1.1.1/v1",
        "https://2130706433/v1",
        "https://127.0.0.0x1/v1",
        "https://a-.example/v1",
        "https://a.-b.example/v1",
        "https://" + "a" * 64 + ".example/v1",
        "https://" + "a." * 127 + "example/v1",
        "https://e.example:65536/v1",
        "https://e.example:/v1",
        "https://e.example/v1\n",
        "https://e.example/v1 ",
        "https://é.example/v1",
        "https://E.EXAMPLE/v1",
        "https:///v1",
        "HTTPS://e.example/v1",
    ],
)
def test_where_none_may_go(url: str) -> None:
    with pytest.raises(ReleaseError, match="base_url"):
        draft(base_url=url)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"schema":1,"schema":1}', b"\xff", b"[" * 5_000, b" " * 20_000]
)
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(ReleaseError):
        Endpoint.draft(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_ours(data: bytes) -> None:
    for read in (Endpoint.draft, Endpoint.decode):
        with pytest.raises(ReleaseError):
            read(data)


@given(st.text(max_size=80))
def test_no_url_gets_out_of_its_host(text: str) -> None:
    try:
        endpoint = draft(base_url=f"https://e.example{text}")
    except ReleaseError:
        return
    from urllib.parse import urlsplit

    assert urlsplit(endpoint.base_url).hostname == endpoint.host
    assert endpoint.host.startswith("e.example")


@pytest.mark.parametrize(
    ("decimal", "expected"), [("0", 0), ("0.15", 150_000), ("3", 3_000_000), ("0.000001", 1)]
)
def test_prices_are_exact(decimal: str, expected: int) -> None:
    assert micro(decimal) == expected


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "a.key", "x" * 64])
def test_names_of_secrets(name: str) -> None:
    with pytest.raises(ReleaseError):
        check_secret_name(name)
    check_secret_name("open-ai-2")
