"""Terms: an agent's log is signed by a key that lives for one term, certified by the log's key.

A term begins with a boot or a rotation and its private key is only ever in memory, so whoever
takes a machine over cannot sign what it should have said in an earlier term. The signature is of
C2SP signed-note's type 0xff: it carries its certificate, so the log's key alone verifies it.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from .errors import NoteError as NoteError

TYPE_ID = b"exclave-term/v1"
"""What follows 0xff in a vkey and in the key id's preimage."""
NONCE_SIZE = 32
"""Bytes of the nonce that shows whose term it was; told once, when the next term begins."""
CERTIFICATE_SIZE = 8 + 32 + 64
SIGNATURE_SIZE = CERTIFICATE_SIZE + 64
MAX_TERM = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TermCertificate:
    """The log's key says: in this term, that key signs for me."""

    origin: str
    term: int
    """1 to 2**63-1; grows with each."""
    public: bytes
    """Raw Ed25519 public key of the term, 32 bytes."""
    signature: bytes
    """By the log's key over `message`."""

    def encode(self) -> bytes:
        """Term (u64, big-endian), public key, signature: 104 bytes."""
        return self.term.to_bytes(8, "big") + self.public + self.signature

    @classmethod
    def parse(cls, origin: str, data: bytes) -> TermCertificate:
        """Nothing is verified. Raises: NoteError."""
        if len(data) != CERTIFICATE_SIZE:
            raise NoteError(f"term: certificate of {len(data)} bytes, not {CERTIFICATE_SIZE}")
        term = int.from_bytes(data[:8], "big")
        if not 1 <= term <= MAX_TERM:
            raise NoteError("term: number not within 1 and 2**63-1")
        return cls(origin, term, data[8:40], data[40:])

    def verify(self, log_public: bytes) -> None:
        """Raises: NoteError unless the log's key has signed it."""
        _verify(log_public, self.signature, message(self.origin, self.term, self.public), "term")


def message(origin: str, term: int, public: bytes) -> bytes:
    """What the log's key signs for a term."""
    return f"{TYPE_ID.decode()}\n{origin}\n{term}\n{b64encode(public).decode()}\n".encode()


def certify(
    log_private: Ed25519PrivateKey, origin: str, term: int, public: bytes
) -> TermCertificate:
    """A certificate for a term's key. Raises: NoteError (`term` out of range)."""
    if not 1 <= term <= MAX_TERM:
        raise NoteError("term: number not within 1 and 2**63-1")
    return TermCertificate(origin, term, public, log_private.sign(message(origin, term, public)))


def verify_signature(name: str, log_public: bytes, data: bytes, text: bytes) -> TermCertificate:
    """The certificate in a signature over a note's text, once both are verified.

    Raises: NoteError.
    """
    if len(data) != SIGNATURE_SIZE:
        raise NoteError(f"signature by {name}: {len(data)} bytes, not {SIGNATURE_SIZE}")
    certificate = TermCertificate.parse(name, data[:CERTIFICATE_SIZE])
    certificate.verify(log_public)
    _verify(certificate.public, data[CERTIFICATE_SIZE:], text, f"signature by {name}")
    return certificate


def commitment(nonce: bytes) -> bytes:
    """What is told of a term's nonce while the term lasts."""
    return sha256(b"exclave-nonce/v1\n" + nonce).digest()


def opens(nonce: bytes, committed: bytes) -> bool:
    """Whether it is the nonce that was committed to; takes as long whatever the answer."""
    return hmac.compare_digest(commitment(nonce), committed)


def _verify(public: bytes, signature: bytes, signed: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise NoteError(f"{what} does not verify") from None
