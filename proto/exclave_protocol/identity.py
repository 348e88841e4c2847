"""Who is who: names, SPIFFE IDs, operator roles and the join token's one line of text."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final, Literal

from exclave_protocol.canonical import JsonValue, decode, encode
from exclave_protocol.errors import CanonicalError, IdentityFormatError

ROLES: Final = ("admin", "release-manager", "auditor")
"""What an operator may be."""

TOKEN_PREFIX: Final = "exj1."  # noqa: S105 (a format marker, no secret)
MAX_TOKEN_TEXT: Final = 2048
TOKEN_SECRET_BYTES: Final = 32

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# SPIFFE-ID 2.1: lower-case letters, digits, dots, dashes and underscores, at most 255.
_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")
_HEX32: Final = re.compile(r"[0-9a-f]{32}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_HOST_PORT: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")

Kind = Literal["agent", "operator", "coordinator"]


def check_name(value: str, what: str = "name") -> str:
    """Return `value` if it may name a tenant, agent or operator (a DNS label).

    Raises: IdentityFormatError.
    """
    if not _NAME.fullmatch(value):
        raise IdentityFormatError(
            f"{what} must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter "
            f"or digit; got {len(value)} characters"
        )
    return value


def check_trust_domain(value: str) -> str:
    """Return `value` if it is a SPIFFE trust domain name. Raises: IdentityFormatError."""
    if not _DOMAIN.fullmatch(value):
        raise IdentityFormatError(
            "trust domain must be 1 to 255 of a-z, 0-9, '.', '-' and '_', beginning and ending "
            "with a letter or digit"
        )
    return value


def check_role(value: str) -> str:
    """Return `value` if it is an operator's role. Raises: IdentityFormatError."""
    if value not in ROLES:
        raise IdentityFormatError(f"role must be one of {', '.join(ROLES)}")
    return value


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One party: `spiffe://<trust-domain>/tenant/<t>/agent/<a>`, `/operator/<name>` or
    `/coordinator`. Build with the class methods, which check every part."""

    kind: Kind
    trust_domain: str
    tenant: str = ""
    """The agent's tenant; empty for the other kinds."""
    name: str = ""
    """The agent's or operator's name; empty for the coordinator."""

    @classmethod
    def agent(cls, trust_domain: str, tenant: str, agent: str) -> SpiffeId:
        """An agent of a tenant. Raises: IdentityFormatError."""
        check_trust_domain(trust_domain)
        return cls("agent", trust_domain, check_name(tenant, "tenant"), check_name(agent, "agent"))

    @classmethod
    def operator(cls, trust_domain: str, name: str) -> SpiffeId:
        """A person or program at the centre. Raises: IdentityFormatError."""
        check_trust_domain(trust_domain)
        return cls("operator", trust_domain, name=check_name(name, "operator"))

    @classmethod
    def coordinator(cls, trust_domain: str) -> SpiffeId:
        """The centre itself. Raises: IdentityFormatError."""
        return cls("coordinator", check_trust_domain(trust_domain))

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read a SPIFFE ID of ours; anything else is refused.

        Raises: IdentityFormatError.
        """
        domain, segments = _split(text)
        match segments:
            case ["tenant", tenant, "agent", agent]:
                return cls.agent(domain, tenant, agent)
            case ["operator", name]:
                return cls.operator(domain, name)
            case ["coordinator"]:
                return cls.coordinator(domain)
        raise IdentityFormatError("spiffe id names neither an agent, an operator nor a coordinator")

    def __str__(self) -> str:
        """The URI, as certificates carry it."""
        base = f"spiffe://{self.trust_domain}"
        if self.kind == "agent":
            return f"{base}/tenant/{self.tenant}/agent/{self.name}"
        if self.kind == "operator":
            return f"{base}/operator/{self.name}"
        return f"{base}/coordinator"


def role_uri(trust_domain: str, role: str) -> str:
    """The second SAN URI of an operator's certificate. Raises: IdentityFormatError."""
    return f"spiffe://{check_trust_domain(trust_domain)}/role/{check_role(role)}"


def parse_role(text: str) -> tuple[str, str]:
    """(trust domain, role) of an operator certificate's role URI.

    Raises: IdentityFormatError.
    """
    domain, segments = _split(text)
    match segments:
        case ["role", role]:
            return domain, check_role(role)
    raise IdentityFormatError("uri is not spiffe://<trust-domain>/role/<role>")


def _split(text: str) -> tuple[str, list[str]]:
    scheme, separator, rest = text.partition("://")
    if scheme != "spiffe" or not separator or len(text) > 2048:
        raise IdentityFormatError("spiffe id must begin with spiffe:// and be at most 2,048 bytes")
    domain, *segments = rest.split("/")
    return check_trust_domain(domain), segments


@dataclass(frozen=True, slots=True)
class JoinToken:
    """All that a machine needs to become an agent, and to trust only this coordinator.

    The text is a bearer secret: single use, but treat it as a password.
    """

    tenant: str
    token_id: str
    """16 bytes as hex: the public half."""
    secret: bytes = field(repr=False)
    """32 bytes; the coordinator stores only its hash."""
    endpoint: str
    """host:port of the enrollment port."""
    ca_sha256: str
    """SHA-256 (hex) of the coordinator CA's certificate, DER: the TLS anchor."""
    root_pin: str
    """SHA-256 (hex) of the canonical signed part of the tenant's TUF root, version 1."""
    agent: str = ""
    """Name this token is for; empty: any."""

    def __post_init__(self) -> None:
        check_name(self.tenant, "tenant")
        if self.agent:
            check_name(self.agent, "agent")
        if not _HEX32.fullmatch(self.token_id):
            raise IdentityFormatError("join token: id must be 32 lower-case hex digits")
        if len(self.secret) != TOKEN_SECRET_BYTES:
            raise IdentityFormatError(f"join token: secret must be {TOKEN_SECRET_BYTES} bytes")
        check_endpoint(self.endpoint)
        for what, digest in (("ca", self.ca_sha256), ("root", self.root_pin)):
            if not _HEX64.fullmatch(digest):
                raise IdentityFormatError(f"join token: {what} must be 64 lower-case hex digits")

    def encode(self) -> str:
        """One line: `exj1.` and base64url (no padding) of canonical JSON."""
        body: dict[str, JsonValue] = {
            "agent": self.agent,
            "ca": self.ca_sha256,
            "endpoint": self.endpoint,
            "id": self.token_id,
            "root": self.root_pin,
            "secret": _b64url(self.secret),
            "tenant": self.tenant,
        }
        return TOKEN_PREFIX + _b64url(encode(body))

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Read a token; surrounding white space is allowed, unknown fields are not.

        Raises: IdentityFormatError, whose message never repeats the token.
        """
        text = text.strip()
        if not text.startswith(TOKEN_PREFIX):
            raise IdentityFormatError(f"join token must begin with {TOKEN_PREFIX}")
        if len(text) > MAX_TOKEN_TEXT:
            raise IdentityFormatError(f"join token is longer than {MAX_TOKEN_TEXT} characters")
        try:
            body = decode(_unb64url(text[len(TOKEN_PREFIX) :]), limit=MAX_TOKEN_TEXT)
        except CanonicalError as error:
            raise IdentityFormatError(
                "join token is damaged: copy the whole line again, nothing more"
            ) from error
        fields = _string_fields(body)
        return cls(
            tenant=fields["tenant"],
            token_id=fields["id"],
            secret=_unb64url(fields["secret"]),
            endpoint=fields["endpoint"],
            ca_sha256=fields["ca"],
            root_pin=fields["root"],
            agent=fields["agent"],
        )


_TOKEN_FIELDS: Final = frozenset({"agent", "ca", "endpoint", "id", "root", "secret", "tenant"})


def _string_fields(body: JsonValue) -> dict[str, str]:
    if not isinstance(body, dict) or body.keys() != _TOKEN_FIELDS:
        raise IdentityFormatError(
            f"join token must have exactly the fields {', '.join(sorted(_TOKEN_FIELDS))}"
        )
    fields: dict[str, str] = {}
    for key, value in body.items():
        if not isinstance(value, str):
            raise IdentityFormatError(f"join token: {key} must be a string")
        fields[key] = value
    return fields


def check_endpoint(value: str) -> str:
    """Return `value` if it is host:port (IPv6 in brackets). Raises: IdentityFormatError."""
    match = _HOST_PORT.fullmatch(value)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise IdentityFormatError("endpoint must be host:port with a port from 1 to 65535")
    return value


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _unb64url(text: str) -> bytes:
    """Strict: no padding, no other alphabet, and no second spelling of the same bytes."""
    try:
        data = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, UnicodeEncodeError) as error:
        raise IdentityFormatError("join token is not unpadded base64url") from error
    if _b64url(data) != text:
        raise IdentityFormatError("join token is not unpadded base64url")
    return data
