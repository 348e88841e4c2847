"""A reviewer's key as a file: the name, then PKCS#8 in PEM; the reviewer's alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from exclave_agent.errors import BadRequest
from exclave_protocol.approval import REVIEWER
from exclave_protocol.note import SigningKey

_NAME = b"reviewer: "
_MAX = 16_384


def create(path: Path, name: str, passphrase: str | None) -> str:
    """Make a key; returns its vkey. Raises: BadRequest (name), OSError (the file exists ...)."""
    if REVIEWER.fullmatch(name) is None:
        raise BadRequest(
            "name: not 1 to 63 of a-z, 0-9 and ._- (begins and ends with one of the former)",
            param="name",
        )
    private = Ed25519PrivateKey.generate()
    sealing: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(_NAME + name.encode() + b"\n" + pem)
        file.flush()
        os.fsync(file.fileno())
    return SigningKey(name, private).vkey


def load(path: Path, passphrase: Callable[[], str]) -> tuple[SigningKey, Ed25519PrivateKey]:
    """The key; `passphrase` is asked where one protects it. Raises: BadRequest, OSError."""
    if path.stat().st_mode & 0o077:
        raise BadRequest(f"{path} is open to other users: chmod 600 it")
    data = path.read_bytes()[:_MAX]
    line, _, pem = data.partition(b"\n")
    name = line.removeprefix(_NAME).decode("ascii", "replace")
    if not line.startswith(_NAME) or REVIEWER.fullmatch(name) is None:
        raise BadRequest(f"{path} is not a reviewer's key: `exclave-agent review key` makes one")
    secret = passphrase().encode() if b"ENCRYPTED" in pem else None
    try:
        private = load_pem_private_key(pem, secret)
    except (ValueError, TypeError):
        raise BadRequest(f"{path}: the key does not open (wrong passphrase, or damaged)") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadRequest(f"{path}: not an Ed25519 key")
    return SigningKey(name, private), private
