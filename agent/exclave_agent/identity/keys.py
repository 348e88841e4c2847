"""The agent's two private keys: who it is to the coordinator, and what signs its audit log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from exclave_agent import sealing
from exclave_agent.disk import sync_folder
from exclave_agent.errors import IdentityError

PRIVATE_MODE = 0o600


# Key generation draws on OpenSSL's generator: a key must not depend on the Rng port, which
# the simulator makes predictable.


def new_identity_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key for certificates."""
    return ec.generate_private_key(ec.SECP256R1())


def new_audit_key() -> Ed25519PrivateKey:
    """A fresh Ed25519 key for checkpoints of the audit log."""
    return Ed25519PrivateKey.generate()


def private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#10, DER, signed by `key`. The coordinator chooses the name: the subject is fixed."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exclave-agent")])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.DER)


def sign_recovery(
    key: ec.EllipticCurvePrivateKey, tenant: str, agent: str, timestamp: int, csr: bytes
) -> bytes:
    """Proof for Enrollment.Recover: ECDSA-SHA256 over the text that enrollment.proto gives."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(csr)
    message = f"exclave-recover-v1\n{tenant}\n{agent}\n{timestamp}\n".encode() + digest.finalize()
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def load_identity_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read key.pem. Raises: IdentityError ("identity_damaged")."""
    key = _load(pem, "key.pem")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise IdentityError("key.pem does not hold an ECDSA P-256 key", code="identity_damaged")
    return key


def load_audit_key(pem: bytes) -> Ed25519PrivateKey:
    """Read audit.key. Raises: IdentityError ("identity_damaged")."""
    key = _load(pem, "audit.key")
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError("audit.key does not hold an Ed25519 key", code="identity_damaged")
    return key


def _load(pem: bytes, name: str) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(
            f"{name} is not an unencrypted PKCS#8 PEM key", code="identity_damaged"
        ) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically, readable by its owner only; durable when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_key(path: Path, data: bytes, *, name: str = "") -> None:
    """As `write_private`, sealed where this process can seal. `name`: what the file is going to
    be called, to which the seal is bound. Raises: IdentityError."""
    write_private(path, sealing.current().seal(name or path.name, data))


def seal_keys(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Seal the keys of a folder that are not yet; the names of those that were. Idempotent.

    Raises: IdentityError.
    """
    sealer = sealing.current()
    if not sealer.present:
        return ()
    sealed = []
    for name in names:
        path = folder / name
        if path.exists() and not sealing.is_sealed(data := path.read_bytes()):
            write_private(path, sealer.seal(name, data))
            sealed.append(name)
    return tuple(sealed)


def read_private(path: Path) -> bytes:
    """Read a private file, refusing one that others on this machine may read; sealed ones are
    opened.

    Raises: IdentityError ("not_enrolled" when it is missing, "identity_exposed",
    "identity_sealed").
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise IdentityError(
            f"{path} is missing: join with a token first, or name another home",
            code="not_enrolled",
        ) from error
    if mode & 0o077:
        raise IdentityError(
            f"{path.name} is open to others (mode {mode & 0o777:o}); run: chmod 600 {path}",
            code="identity_exposed",
        )
    return sealing.current().open(path.name, data)
