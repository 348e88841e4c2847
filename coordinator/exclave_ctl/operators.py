"""A new operator's key, made here, and the certificate that the coordinator gives for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exclave_ctl import profile
from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import SpiffeId, check_name, check_role, role_uri

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec


def issue(client: Client, name: str, role: str, ttl: int, folder: Path) -> int:
    """Make a key, have it certified, write the profile; returns not-after (epoch seconds).

    The private key never leaves this machine. Raises: CtlError.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509.oid import NameOID

    try:
        check_name(name, "operator")
        check_role(role)
    except IdentityFormatError as error:
        raise CtlError(error.message) from error
    if (folder / "profile.json").exists():
        raise CtlError(f"{folder} already holds a profile", "choose another folder with -o")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    reply = client.issue_operator(name, role, csr.public_bytes(Encoding.DER), ttl)
    try:
        chain = [x509.load_der_x509_certificate(der) for der in reply.certificate_chain]
        authorities = [x509.load_der_x509_certificate(der) for der in reply.ca_bundle]
    except ValueError as error:
        raise CtlError("the coordinator's certificate cannot be read") from error
    mine = client.profile
    _check(chain, key.public_key(), mine.trust_domain, name, role)
    profile.write(
        folder,
        endpoint=mine.endpoint,
        name=name,
        role=role,
        trust_domain=mine.trust_domain,
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate=b"".join(c.public_bytes(Encoding.PEM) for c in chain),
        ca=b"".join(c.public_bytes(Encoding.PEM) for c in authorities),
    )
    return int(chain[0].not_valid_after_utc.timestamp())


def _check(
    chain: list[x509.Certificate],
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    name: str,
    role: str,
) -> None:
    """The certificate must be for our key and say what was asked for. Raises: CtlError."""
    from cryptography import x509

    if not chain or chain[0].public_key() != key:
        raise CtlError("the coordinator certified another key than the one asked for")
    try:
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CtlError("the coordinator's certificate names nobody") from error
    wanted = {str(SpiffeId.operator(trust_domain, name)), role_uri(trust_domain, role)}
    if not wanted <= set(names.get_values_for_type(x509.UniformResourceIdentifier)):
        raise CtlError("the coordinator's certificate is for another name or role")
