"""The endpoint document: which remote model a release may ask, how, and with which data."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from exclave_protocol.canonical import JsonValue, encode
from exclave_protocol.errors import CanonicalError, ReleaseError
from exclave_protocol.fields import Reader

__all__ = [
    "ACTIONS",
    "ENDPOINT_SCHEMA",
    "HEADERS",
    "MAX_ENDPOINT",
    "PROVIDERS",
    "Endpoint",
    "EndpointPrice",
    "EndpointTimeouts",
    "check_secret_name",
    "micro",
]

ENDPOINT_SCHEMA: Final = "exclave.endpoint/v1"
MAX_ENDPOINT: Final = 16_384
"""Bytes."""
PROVIDERS: Final = ("openai", "azure", "vllm", "bedrock", "vertex", "compatible")
"""Who answers; it decides the paths, the credential's header and which parameters are known."""
ACTIONS: Final = ("chat", "complete", "embed")
AUTHS: Final = ("bearer", "api-key")
"""The header that carries the secret: `authorization: Bearer` or `api-key`."""
HEADERS: Final = (
    "x-exclave-data-class",
    "x-exclave-priority",
    "x-exclave-workflow",
    "x-goog-user-project",
)
"""What `headers` may set, each to one fixed value for every request."""
MAX_CLASSES: Final = 64
MAX_PRICE_MICRO: Final = 10**12
"""A million units of the currency for a million tokens."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLASS: Final = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_MODEL: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._:/-]{0,255}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VALUE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")
_PRICE: Final = re.compile(r"(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])"
    r"(:(?P<port>[1-9][0-9]{0,4}))?(/[A-Za-z0-9._~@:-]+)*/?"
)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_WHAT: Final = "endpoint"


@dataclass(frozen=True, slots=True)
class EndpointTimeouts:
    """How long is waited, milliseconds."""

    connect: int = 5_000
    """For DNS, TCP and TLS together with each of the two."""
    first_token: int = 60_000
    """From the request to the first piece of the answer, and between any two pieces."""
    total: int = 600_000
    """For the whole answer."""

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "total"):
            if not 1 <= getattr(self, name) <= 3_600_000:
                raise _wrong(f"timeouts_ms: {name} must be 1 to 3600000")
        if self.first_token > self.total or self.connect > self.total:
            raise _wrong("timeouts_ms: total must be the longest")


@dataclass(frozen=True, slots=True)
class EndpointPrice:
    """What a million tokens cost, as decimal strings: nothing is rounded on the way."""

    currency: str
    """ISO 4217."""
    input: str
    output: str
    cached_input: str = ""
    """For prompt tokens that the provider had cached; "": as `input`."""

    def __post_init__(self) -> None:
        if not _CURRENCY.fullmatch(self.currency):
            raise _wrong("price: currency must be three capital letters (ISO 4217)")
        for name in ("input", "output", "cached_input"):
            text = getattr(self, name)
            if name == "cached_input" and not text:
                continue
            if not _PRICE.fullmatch(text) or micro(text) > MAX_PRICE_MICRO:
                raise _wrong(
                    f"price: {name} must be a decimal number of at most 1000000 with at most "
                    'six decimals, as a string such as "0.15"'
                )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One remote model. Signed as a TUF target and named by digest, like a model's file."""

    provider: str
    """One of PROVIDERS."""
    base_url: str
    """Where the API's paths begin, such as "https://api.openai.com/v1"; of Azure the resource,
    "https://NAME.openai.azure.com". https, or http on this machine's loopback."""
    model: str
    """The model's id at the provider."""
    actions: tuple[str, ...]
    """Some of ACTIONS, each once, in that order."""
    data_classes: tuple[str, ...] = ()
    """The only labels of data that may be sent there; "" is unlabelled data. None listed:
    nothing may leave."""
    secret: str = ""
    """NAME of the key that each agent was given (`exclave-agent remote set-key NAME`), never the
    key; "": the endpoint asks for none."""
    auth: str = "bearer"
    """One of AUTHS."""
    api_version: str = ""
    """Of Azure only, and needed there."""
    deployment: str = ""
    """Of Azure only; "": as `model`."""
    context_tokens: int = 0
    """Most tokens of prompt and answer together; 0: not known here."""
    timeouts: EndpointTimeouts = field(default_factory=EndpointTimeouts)
    max_concurrency: int = 16
    """Requests of one agent in flight."""
    max_waiting: int = 64
    """Requests of one agent that may wait for one of those to end."""
    price: EndpointPrice | None = None
    organization: str = ""
    """OpenAI's, as a header."""
    project: str = ""
    """OpenAI's, as a header."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Fixed values of some of HEADERS."""

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise _wrong(f"provider must be one of {', '.join(PROVIDERS)}")
        _check_url(self.base_url)
        _match(_MODEL, self.model, "model", "1 to 256 of A-Z, a-z, 0-9 and '@._:/-'")
        if not self.actions or self.actions != tuple(a for a in ACTIONS if a in self.actions):
            raise _wrong(f"actions must be some of {', '.join(ACTIONS)}, each once, in that order")
        self._check_classes()
        if self.secret:
            check_secret_name(self.secret)
        if self.auth not in AUTHS:
            raise _wrong(f"auth must be one of {', '.join(AUTHS)}")
        self._check_azure()
        _within(self.context_tokens, 0, 1 << 30, "context_tokens")
        _within(self.max_concurrency, 1, 4_096, "max_concurrency")
        _within(self.max_waiting, 0, 16_384, "max_waiting")
        for name in ("organization", "project"):
            if text := getattr(self, name):
                _match(_PLAIN, text, name, "letters, digits, '.', '_' and '-'")
        self._check_headers()

    def _check_classes(self) -> None:
        if len(self.data_classes) > MAX_CLASSES:
            raise _wrong(f"data_classes has more than {MAX_CLASSES} entries")
        if list(self.data_classes) != sorted(set(self.data_classes)):
            raise _wrong("data_classes must be in ascending order, each once")
        if not all(_CLASS.fullmatch(one) for one in self.data_classes):
            raise _wrong("data_classes must be 0 to 64 letters, digits or any of _.:-")

    def _check_azure(self) -> None:
        if self.provider == "azure":
            _match(_PLAIN, self.api_version, "api_version", 'such as "2024-10-21"')
            if self.deployment:
                _match(_PLAIN, self.deployment, "deployment", "letters, digits, '.', '_' and '-'")
            if not self.secret:
                raise _wrong("secret must be there: Azure always asks for one")
            return
        for name in ("api_version", "deployment"):
            if getattr(self, name):
                raise _wrong(f"{name} is for provider azure only")

    def _check_headers(self) -> None:
        for name, value in self.headers.items():
            if name not in HEADERS:
                raise _wrong(f"headers may hold {', '.join(HEADERS)} only")
            _match(_VALUE, value, f"headers: {name}", "1 to 256 printable ASCII characters")

    @property
    def host(self) -> str:
        """The host of `base_url`, lower case, an IPv6 address without brackets."""
        return urlsplit(self.base_url).hostname or ""

    def encode(self) -> bytes:
        """The canonical bytes whose digest names the document. Raises: ReleaseError."""
        value: dict[str, JsonValue] = {
            "schema": ENDPOINT_SCHEMA,
            "provider": self.provider,
            "base_url": self.base_url,
            "model": self.model,
            "actions": list(self.actions),
            "data_classes": list(self.data_classes),
            "secret": self.secret,
            "auth": self.auth,
            "api_version": self.api_version,
            "deployment": self.deployment,
            "context_tokens": self.context_tokens,
            "timeouts_ms": {
                "connect": self.timeouts.connect,
                "first_token": self.timeouts.first_token,
                "total": self.timeouts.total,
            },
            "max_concurrency": self.max_concurrency,
            "max_waiting": self.max_waiting,
            "price": None if self.price is None else _price_value(self.price),
            "organization": self.organization,
            "project": self.project,
            "headers": dict(self.headers),
        }
        try:
            data = encode(value)
        except CanonicalError as error:
            raise _wrong(error.message) from error
        if len(data) > MAX_ENDPOINT:
            raise _wrong(f"longer than {MAX_ENDPOINT} bytes")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Endpoint:
        """Read a signed document: canonical bytes with every field, and no other.

        Raises: ReleaseError naming the field.
        """
        endpoint = cls._read(Reader.of(data, MAX_ENDPOINT, _WHAT))
        if endpoint.encode() != data:
            raise _wrong("a field is missing: a signed document has every one of them")
        return endpoint

    @classmethod
    def draft(cls, text: bytes) -> Endpoint:
        """Read what a person wrote: any JSON; fields that have a default may be left out, lists
        may be in any order. `encode` makes the signed form of it.

        Raises: ReleaseError naming the field.
        """
        if len(text) > MAX_ENDPOINT:
            raise _wrong(f"longer than {MAX_ENDPOINT} bytes")
        try:
            value = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError):
            raise _wrong("not JSON in UTF-8, or nested too deep") from None
        return cls._read(Reader(value, _WHAT))

    @classmethod
    def _read(cls, reader: Reader) -> Endpoint:
        reader.schema(ENDPOINT_SCHEMA)
        provider, actions = reader.string("provider"), set(reader.strings("actions", len(ACTIONS)))
        if unknown := actions - set(ACTIONS):
            raise _wrong(f"actions has {len(unknown)} unknown entries")
        timeouts, price = reader.optional("timeouts_ms"), reader.optional("price")
        default = EndpointTimeouts()
        endpoint = cls(
            provider=provider,
            base_url=reader.string("base_url"),
            model=reader.string("model"),
            actions=tuple(one for one in ACTIONS if one in actions),
            data_classes=tuple(sorted(set(reader.strings("data_classes", MAX_CLASSES)))),
            secret=reader.string("secret", ""),
            auth=reader.string("auth", "api-key" if provider == "azure" else "bearer"),
            api_version=reader.string("api_version", ""),
            deployment=reader.string("deployment", ""),
            context_tokens=reader.integer("context_tokens", 0),
            timeouts=default if timeouts is None else _read_timeouts(timeouts, default),
            max_concurrency=reader.integer("max_concurrency", 16),
            max_waiting=reader.integer("max_waiting", 64),
            price=None if price is None else _read_price(price),
            organization=reader.string("organization", ""),
            project=reader.string("project", ""),
            headers=_read_headers(reader),
        )
        reader.finish()
        return endpoint


def check_secret_name(name: str) -> None:
    """Raises: ReleaseError unless it can name a secret: a file's name, and a credential's."""
    _match(_NAME, name, "secret", "1 to 63 of a-z, 0-9 and '-', the NAME of a key, not the key")


def micro(decimal: str) -> int:
    """Millionths of a checked decimal: "0.15" is 150000."""
    whole, _, part = decimal.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or "0")


# --- shapes ---------------------------------------------------------------------------------


def _wrong(message: str) -> ReleaseError:
    return ReleaseError(f"{_WHAT}: {message}")


def _match(pattern: re.Pattern[str], text: str, name: str, shape: str) -> None:
    if not pattern.fullmatch(text):
        raise _wrong(f"{name} must be {shape}")


def _within(value: int, low: int, high: int, name: str) -> None:
    if not low <= value <= high:
        raise _wrong(f"{name} must be {low} to {high}")


def _check_url(url: str) -> None:
    parts = _URL.fullmatch(url)
    fits = parts is not None and ".." not in url and int(parts["port"] or "1") < 65_536
    if parts is None or not fits or not _is_host(parts["host"]):
        raise _wrong(
            "base_url must be https://HOST[:PORT][/PATH], without user, query, fragment or '%'"
        )
    if parts["scheme"] == "http" and not _loopback(parts["host"].strip("[]")):
        raise _wrong("base_url must be https; http only for 127.0.0.0/8, ::1 and localhost")


def _is_host(host: str) -> bool:
    """Whether every reader of URLs takes it for the same host: an IP address in its usual form,
    or a DNS name."""
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host.strip("[]"))
            return True
        labels = host.split(".")
        if labels[-1].isdigit() or labels[-1].startswith("0x"):
            ipaddress.IPv4Address(host)
            return True
    except ValueError:
        return False
    return len(host) <= 253 and all(_LABEL.fullmatch(one) for one in labels)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _price_value(price: EndpointPrice) -> JsonValue:
    return {
        "currency": price.currency,
        "input": price.input,
        "output": price.output,
        "cached_input": price.cached_input,
    }


def _read_price(reader: Reader) -> EndpointPrice:
    price = EndpointPrice(
        currency=reader.string("currency"),
        input=reader.string("input"),
        output=reader.string("output"),
        cached_input=reader.string("cached_input", ""),
    )
    reader.finish()
    return price


def _read_timeouts(reader: Reader, default: EndpointTimeouts) -> EndpointTimeouts:
    timeouts = EndpointTimeouts(
        connect=reader.integer("connect", default.connect),
        first_token=reader.integer("first_token", default.first_token),
        total=reader.integer("total", default.total),
    )
    reader.finish()
    return timeouts


def _read_headers(reader: Reader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in (reader.mapping("headers") if reader.has("headers") else {}).items():
        if not isinstance(value, str):
            raise _wrong("headers must be strings")
        headers[name] = value
    return headers
