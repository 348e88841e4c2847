"""Checks on what the coordinator issued, before any of it is kept; pure, over bytes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave_agent.errors import IdentityError
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import SpiffeId


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate holds, seconds since the epoch."""

    not_before: int
    not_after: int


def pinned_authority(chain: Sequence[bytes], sha256: str) -> bytes:
    """The certificate (DER) of an unverified chain whose SHA-256 is `sha256` (hex).

    Raises: IdentityError ("ca_mismatch").
    """
    for certificate in chain:
        if hashlib.sha256(certificate).hexdigest() == sha256:
            return certificate
    raise IdentityError(
        f"none of the {len(chain)} certificates that the enrollment port presents is the CA that "
        "the join token pins: this is another coordinator, or someone in between",
        code="ca_mismatch",
    )


def check_issued(
    chain: Sequence[bytes],
    authorities: Sequence[bytes],
    key: ec.EllipticCurvePublicKey,
    spiffe: SpiffeId,
) -> None:
    """Check that an issued chain (DER, leaf first) is ours and hangs from an authority.

    1. the leaf holds our public key; 2. its one SPIFFE ID is `spiffe`; 3. each certificate is
    signed by the next, the last by one of `authorities`.

    Raises: IdentityError ("bad_certificate").
    """
    if not chain:
        raise _bad("no certificate was issued")
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        roots = [x509.load_der_x509_certificate(der) for der in authorities]
    except ValueError as error:
        raise _bad("an issued certificate is not DER X.509") from error
    leaf = certificates[0]
    if leaf.public_key() != key:
        raise _bad("the issued certificate holds another public key than ours")
    if leaf_spiffe(leaf) != spiffe:
        raise _bad("the issued certificate names another agent than the answer does")
    for signed, issuer in itertools.pairwise(certificates):
        if not _issued_by(signed, issuer):
            raise _bad("the issued chain is broken: a certificate is not signed by the next")
    if not any(certificates[-1] == root or _issued_by(certificates[-1], root) for root in roots):
        raise _bad("the issued certificate is not signed by the CA that this agent trusts")


def leaf_spiffe(certificate: x509.Certificate) -> SpiffeId:
    """The agent's SPIFFE ID: the only URI of the subject alternative name.

    Raises: IdentityError ("bad_certificate").
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        spiffe = SpiffeId.parse(uri)
    except (x509.ExtensionNotFound, ValueError, IdentityFormatError) as error:
        raise _bad("the certificate does not carry exactly one SPIFFE ID of ours") from error
    if spiffe.kind != "agent":
        raise _bad("the certificate is not an agent's")
    return spiffe


def validity(certificate: x509.Certificate) -> Validity:
    """The certificate's period."""
    return Validity(
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def to_pem(certificates: Sequence[bytes]) -> bytes:
    """DER certificates as one PEM file."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in certificates
    )


def from_pem(pem: bytes, name: str) -> tuple[bytes, ...]:
    """The certificates (DER) of a PEM file. Raises: IdentityError ("identity_damaged")."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise IdentityError(f"{name} holds no PEM certificate", code="identity_damaged") from error
    return tuple(item.public_bytes(serialization.Encoding.DER) for item in found)


def _issued_by(signed: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        signed.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _bad(message: str) -> IdentityError:
    return IdentityError(message, code="bad_certificate")
