"""The operator's profile: who I am and which coordinator I talk to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from exclave_ctl import files
from exclave_ctl.errors import CtlError
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import check_endpoint, check_name, check_role, check_trust_domain

MAX_PEM = 64 << 10


@dataclass(frozen=True, slots=True)
class Profile:
    """A folder with profile.json, key.pem, cert.pem and ca.pem."""

    folder: Path
    endpoint: str
    """host:port of the coordinator's mTLS port."""
    name: str
    role: str
    trust_domain: str

    @classmethod
    def load(cls, folder: Path | None) -> Profile:
        """Read the profile. Raises: CtlError."""
        if folder is None:
            raise CtlError(
                "no operator profile given",
                "pass --profile DIR or set EXCLAVE_PROFILE; `exclave-coordinator init` writes "
                "the first one to <home>/operators/<name>",
            )
        value = files.read_json(folder / "profile.json", "profile")
        try:
            return cls(
                folder=folder,
                endpoint=check_endpoint(str(value["endpoint"])),
                name=check_name(str(value["name"]), "operator"),
                role=check_role(str(value["role"])),
                trust_domain=check_trust_domain(str(value["trust_domain"])),
            )
        except KeyError as error:
            raise CtlError(f"profile {folder}/profile.json lacks {error.args[0]}") from error
        except IdentityFormatError as error:
            raise CtlError(f"profile {folder}/profile.json: {error.message}") from error

    def key(self) -> bytes:
        """Private key, PEM. Raises: CtlError."""
        files.refuse_exposed(self.folder / "key.pem", "operator key")
        return files.read(self.folder / "key.pem", MAX_PEM, "operator key")

    def certificate(self) -> bytes:
        """Certificate chain, leaf first, PEM. Raises: CtlError."""
        return files.read(self.folder / "cert.pem", MAX_PEM, "operator certificate")

    def ca(self) -> bytes:
        """The coordinator's CA certificates, PEM. Raises: CtlError."""
        return files.read(self.folder / "ca.pem", MAX_PEM, "CA bundle")

    def check(self) -> None:
        """Find here what the coordinator would only answer by hanging up.

        Raises: CtlError (certificate unreadable, expired, or not of this profile's CA).
        """
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        try:
            certificate = x509.load_pem_x509_certificate(self.certificate())
            authorities = x509.load_pem_x509_certificates(self.ca())
        except ValueError as error:
            raise CtlError(f"profile {self.folder}: a certificate cannot be read") from error
        expires = certificate.not_valid_after_utc
        if expires <= datetime.now(UTC):
            raise CtlError(
                f"this profile's certificate expired on {expires:%Y-%m-%d %H:%M} UTC",
                f"ask an admin: exclave operator issue {self.name} --role {self.role} -o DIR; if "
                "none is left, on the coordinator's machine: exclave-coordinator operator issue",
            )
        for authority in authorities:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return
        raise CtlError(
            f"profile {self.folder}: cert.pem was not issued by a CA in ca.pem",
            "use the files of one profile together, as they were written",
        )


def write(
    folder: Path,
    *,
    endpoint: str,
    name: str,
    role: str,
    trust_domain: str,
    key: bytes,
    certificate: bytes,
    ca: bytes,
) -> None:
    """Write a new profile; the key first and private. Raises: CtlError (a file exists)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.create(folder / "key.pem", key, mode=0o600)
    files.create(folder / "cert.pem", certificate)
    files.create(folder / "ca.pem", ca)
    value = {"endpoint": endpoint, "name": name, "role": role, "trust_domain": trust_domain}
    files.create(folder / "profile.json", files.json_bytes(value))
