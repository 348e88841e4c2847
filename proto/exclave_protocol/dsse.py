"""DSSE envelopes: a typed payload and its Ed25519 signatures (secure-systems-lab/dsse v1.0)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import ReleaseError
from .fields import Reader

MAX_ENVELOPE: Final = 65_535
MAX_SIGNATURES: Final = 16


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: `DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of the raw public key: a hint in envelopes, never trusted."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature over the envelope's PAE."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type and its signatures. The type is signed with the payload."""

    payload_type: str
    payload: bytes = field(repr=False)
    signatures: tuple[EnvelopeSignature, ...]

    @classmethod
    def signed(
        cls, payload_type: str, payload: bytes, keys: Iterable[Ed25519PrivateKey]
    ) -> Envelope:
        """Sign a payload with every key."""
        message = pae(payload_type, payload)
        signatures = tuple(
            EnvelopeSignature(key_id(key.public_key()), key.sign(message)) for key in keys
        )
        return cls(payload_type, payload, signatures)

    def encode(self) -> bytes:
        """JSON as the DSSE envelope specification has it (standard base64)."""
        value = {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode("ascii")}
                for s in self.signatures
            ],
        }
        return json.dumps(value, separators=(",", ":")).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Read an envelope; nothing in it is verified yet. Raises: ReleaseError.

        The envelope itself is not signed, so it need not be canonical; fields that the
        specification does not have are refused all the same, as nothing should ride along.
        """
        if len(data) > MAX_ENVELOPE:
            raise ReleaseError(f"envelope is longer than {MAX_ENVELOPE} bytes")
        try:
            value = json.loads(data, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise ReleaseError("envelope is not JSON, or names a field twice") from error
        reader = Reader(value, "envelope")
        signatures = tuple(
            _read_signature(item) for item in reader.objects("signatures", MAX_SIGNATURES)
        )
        envelope = cls(
            payload_type=reader.string("payloadType"),
            payload=_unb64(reader.string("payload"), "envelope payload"),
            signatures=signatures,
        )
        reader.finish()
        return envelope

    def verify(
        self, payload_type: str, keys: Iterable[Ed25519PublicKey], *, threshold: int = 1
    ) -> bytes:
        """The payload, once `threshold` distinct keys are found to have signed it.

        Key ids are ignored, as the specification asks: every key is tried.
        Raises: ReleaseError (wrong type, or too few good signatures).
        """
        if self.payload_type != payload_type:
            raise ReleaseError(f"envelope's payload type is not {payload_type}")
        message = pae(self.payload_type, self.payload)
        distinct = {key.public_bytes_raw(): key for key in keys}
        good = sum(
            any(_holds(key, s.sig, message) for s in self.signatures) for key in distinct.values()
        )
        if threshold < 1 or good < threshold:
            raise ReleaseError(f"envelope has {good} good signatures of trusted keys, not enough")
        return self.payload


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _read_signature(reader: Reader) -> EnvelopeSignature:
    # DSSE: keyid is OPTIONAL.
    keyid = reader.string("keyid") if reader.has("keyid") else ""
    signature = EnvelopeSignature(keyid, _unb64(reader.string("sig"), "envelope signature"))
    reader.finish()
    return signature


def _unb64(text: str, what: str) -> bytes:
    """Standard or URL-safe base64: the specification tells readers to accept either."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReleaseError(f"{what} is not base64") from error


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value
