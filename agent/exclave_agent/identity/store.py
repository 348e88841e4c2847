"""The identity folder: what is in it, how it is read, and how a new certificate replaces the old.

identity/key.pem    ECDSA P-256, the key bound at enrollment
identity/audit.key  Ed25519, signs audit checkpoints
identity/cert.pem   certificate chain, leaf first
identity/ca.pem     the only authority that the coordinator's certificate may hang from
identity/join.json  who we are and what the join token pinned; written last: its presence
                    means that enrollment is complete
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.errors import IdentityError
from exclave_agent.identity import certificates, keys
from exclave_agent.identity.transport import Issued
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import SpiffeId

SCHEMA: Final = "exclave.identity/v1"
PRIVATE_KEYS: Final = ("key.pem", "audit.key", "vault.key")
"""Files of the folder that are sealed where the service manager gives a key for it; the vault's
lies here as well."""
SECRETS_KEY: Final = "secrets.key"
"""What the secrets are encrypted under; made with the first of them, and sealed like the others."""
REMOTE_KEYS: Final = "remote-*.key"
"""Keys of remote models' endpoints of former versions, which are sealed too until they are taken
over (`secrets.Secrets.take_over`)."""
_FIELDS: Final = (
    "schema",
    "spiffe_id",
    "token_id",
    "enroll_endpoint",
    "session_endpoint",
    "ca_sha256",
    "root_pin",
    "witness_vkey",
    "director_key",
)


def private_keys(folder: Path) -> tuple[str, ...]:
    """Names of all files of an identity folder that are sealed, there or not yet."""
    found = (path.name for name in (SECRETS_KEY, REMOTE_KEYS) for path in folder.glob(name))
    return (*PRIVATE_KEYS, *sorted(found))


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that makes this machine an agent. Replaced as a whole on renewal."""

    folder: Path
    spiffe: SpiffeId
    token_id: str
    """Public half of the token that it joined with."""
    enroll_endpoint: str
    session_endpoint: str
    """host:port of the mTLS port."""
    ca_sha256: str
    root_pin: str
    """SHA-256 (hex) of the canonical signed part of the tenant's TUF root, version 1."""
    witness_vkey: str
    director_key: bytes
    """Raw Ed25519 public key that signs assignments."""
    key_pem: bytes = field(repr=False)
    audit_key: Ed25519PrivateKey = field(repr=False)
    cert_pem: bytes = field(repr=False)
    ca_pem: bytes = field(repr=False)
    not_before: int
    """Of the present certificate, seconds since the epoch; as is `not_after`."""
    not_after: int

    @property
    def trust_domain(self) -> str:
        """SPIFFE trust domain."""
        return self.spiffe.trust_domain

    @property
    def tenant(self) -> str:
        """The tenant this agent belongs to."""
        return self.spiffe.tenant

    @property
    def agent(self) -> str:
        """This agent's name."""
        return self.spiffe.name

    @property
    def key_path(self) -> Path:
        """key.pem"""
        return self.folder / "key.pem"

    @property
    def cert_path(self) -> Path:
        """cert.pem"""
        return self.folder / "cert.pem"


def identity_folder(home: Path) -> Path:
    """Where an agent home keeps its identity."""
    return home / "identity"


def load(home: Path) -> Identity:
    """Read the identity of an agent home.

    Raises: IdentityError ("not_enrolled", "identity_damaged", "identity_exposed").
    """
    folder = identity_folder(home)
    record = _read_record(keys.read_private(folder / "join.json"))
    cert_pem = keys.read_private(folder / "cert.pem")
    ca_pem = keys.read_private(folder / "ca.pem")
    certificates.from_pem(ca_pem, "ca.pem")
    leaf = x509.load_der_x509_certificate(certificates.from_pem(cert_pem, "cert.pem")[0])
    key_pem = keys.read_private(folder / "key.pem")
    if keys.load_identity_key(key_pem).public_key() != leaf.public_key():
        raise _damaged("cert.pem does not belong to key.pem")
    try:
        spiffe = SpiffeId.parse(record["spiffe_id"])
        director_key = bytes.fromhex(record["director_key"])
    except (IdentityFormatError, ValueError) as error:
        raise _damaged("join.json: spiffe_id or director_key is malformed") from error
    period = certificates.validity(leaf)
    return Identity(
        folder=folder,
        spiffe=spiffe,
        token_id=record["token_id"],
        enroll_endpoint=record["enroll_endpoint"],
        session_endpoint=record["session_endpoint"],
        ca_sha256=record["ca_sha256"],
        root_pin=record["root_pin"],
        witness_vkey=record["witness_vkey"],
        director_key=director_key,
        key_pem=key_pem,
        audit_key=keys.load_audit_key(keys.read_private(folder / "audit.key")),
        cert_pem=cert_pem,
        ca_pem=ca_pem,
        not_before=period.not_before,
        not_after=period.not_after,
    )


def write_record(identity_or_record: dict[str, str], folder: Path) -> None:
    """Write join.json, the mark that enrollment is complete."""
    record = {"schema": SCHEMA, **identity_or_record}
    assert set(record) == set(_FIELDS)
    keys.write_private(folder / "join.json", json.dumps(record, indent=1, sort_keys=True).encode())


def _read_record(data: bytes) -> dict[str, str]:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise _damaged("join.json is not JSON") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise _damaged(f"join.json is not of schema {SCHEMA}")
    if set(record) != set(_FIELDS) or not all(isinstance(v, str) for v in record.values()):
        raise _damaged("join.json must have exactly its known fields, all strings")
    return record


def _damaged(message: str) -> IdentityError:
    return IdentityError(
        f"{message}; restore the identity folder, or remove it and join again",
        code="identity_damaged",
    )


class IdentityStore:
    """The present identity, and who must hear of a new certificate.

    One task renews; listeners are called on its loop, in the order in which they subscribed.
    """

    def __init__(self, home: Path) -> None:
        """Raises: IdentityError, as `load`."""
        self._home = home
        self._current = load(home)
        self._listeners: list[Callable[[Identity], None]] = []

    @property
    def current(self) -> Identity:
        """The identity with its newest certificate."""
        return self._current

    def subscribe(self, listener: Callable[[Identity], None]) -> None:
        """Call `listener` with every later identity."""
        self._listeners.append(listener)

    def accept(self, issued: Issued) -> Identity:
        """Check a renewed certificate, keep it, and tell the listeners.

        Only the certificate is taken: the CA, director and witness stay those of the join, as
        new trust comes from signed releases and never from whoever holds the online keys.

        Raises: IdentityError ("bad_certificate"); the present certificate stays.
        """
        now = self._current
        key = keys.load_identity_key(now.key_pem)
        certificates.check_issued(
            issued.chain, certificates.from_pem(now.ca_pem, "ca.pem"), key.public_key(), now.spiffe
        )
        keys.write_private(now.cert_path, certificates.to_pem(issued.chain))
        self._current = load(self._home)
        for listener in self._listeners:
            listener(self._current)
        return self._current
