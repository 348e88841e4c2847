"""Keys of terms that are the same on every run."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_protocol.checkpoint import agent_log_key
from exclave_protocol.note import TermKey
from exclave_protocol.term import certify


def term_key(origin: str, log_private: Ed25519PrivateKey, term: int = 1, seed: str = "") -> TermKey:
    """The key of a term; another `seed` is another process in the same term."""
    public = log_private.public_key().public_bytes_raw()
    private = Ed25519PrivateKey.from_private_bytes(
        sha256(f"{origin}\n{term}\n{seed}\n".encode() + public).digest()
    )
    certificate = certify(log_private, origin, term, private.public_key().public_bytes_raw())
    return TermKey(agent_log_key(origin, public), certificate, private)
