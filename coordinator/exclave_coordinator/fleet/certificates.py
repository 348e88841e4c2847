"""X.509: the authority that names coordinator, agents and operators, and reading its names back."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave_coordinator.errors import Invalid, Unauthenticated
from exclave_coordinator.ports import Clock, Issued, Rng
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import SpiffeId, parse_role, role_uri
from exclave_protocol.wire import MAX_CSR

CA_DAYS = 3653
"""Ten years, leap days included."""
BACKDATE = 300
"""Seconds by which certificates begin earlier: the other side's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who presented a certificate, as its names say."""

    id: SpiffeId
    role: str
    """Operators only."""
    not_after: int
    """Seconds since the epoch."""
    key: bytes
    """SubjectPublicKeyInfo, DER."""


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request whose own signature holds. Its subject is ignored."""

    public_key: ec.EllipticCurvePublicKey
    spki: bytes
    """SubjectPublicKeyInfo, DER."""

    @property
    def key_hash(self) -> bytes:
        """SHA-256 of the public key."""
        return hashlib.sha256(self.spki).digest()


def parse_request(der: bytes) -> Request:
    """Read a PKCS#10 request (DER, ECDSA P-256). Raises: Invalid."""
    if not der or len(der) > MAX_CSR:
        raise Invalid(f"csr: {len(der)} bytes where 1 to {MAX_CSR} are allowed", code="csr")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise Invalid("csr: not a readable PKCS#10 request in DER", code="csr") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("csr: the key must be ECDSA P-256", code="csr_key")
    if not valid:
        raise Invalid("csr: its signature does not prove the key", code="csr_signature")
    return Request(key, spki_of(key))


def spki_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def verify_proof(spki: bytes, signature: bytes, message: bytes) -> bool:
    """ECDSA-SHA256 by the key in `spki`."""
    key = serialization.load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # only such keys are ever bound
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def recovery_message(tenant: str, agent: str, timestamp: int, csr: bytes) -> bytes:
    """What `RecoverRequest.proof` signs (enrollment.proto)."""
    head = f"exclave-recover-v1\n{tenant}\n{agent}\n{timestamp}\n".encode()
    return head + hashlib.sha256(csr).digest()


def read_peer(pem: bytes, trust_domain: str) -> Peer:
    """The names in a client certificate that TLS has already verified against our CA.

    Raises: Unauthenticated (names that we never issue).
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        peer = SpiffeId.parse(uris[0])
        role = ""
        if peer.kind == "operator":
            domain, role = parse_role(uris[1])
            if domain != peer.trust_domain:
                raise IdentityFormatError("role uri is of another trust domain")
    except (ValueError, IndexError, x509.ExtensionNotFound, IdentityFormatError) as error:
        raise Unauthenticated("certificate: carries no name of ours", code="not_ours") from error
    if peer.trust_domain != trust_domain:
        raise Unauthenticated("certificate: is of another trust domain", code="not_ours")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Unauthenticated("certificate: its key is not ECDSA P-256", code="not_ours")
    return Peer(peer, role, int(certificate.not_valid_after_utc.timestamp()), spki_of(key))


class Authority:
    """Our certificate authority: one self-signed ECDSA P-256 root."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        trust_domain: str,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._key = key
        self._certificate = certificate
        self._domain = trust_domain
        self._clock = clock
        self._rng = rng

    @classmethod
    def create(cls, trust_domain: str, clock: Clock, rng: Rng) -> Authority:
        """A new root, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Exclave"),
                # 64 characters is X.520's limit of a common name.
                x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} authority"[:64]),
            ]
        )
        now = datetime.fromtimestamp(clock.now(), UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(_serial(rng))
            .not_valid_before(now - timedelta(seconds=BACKDATE))
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, trust_domain, clock, rng)

    @property
    def der(self) -> bytes:
        """The root certificate."""
        return self._certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The root certificate as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as PKCS#8 PEM."""
        return private_pem(self._key)

    @property
    def not_after(self) -> int:
        """Seconds since the epoch."""
        return int(self._certificate.not_valid_after_utc.timestamp())

    def issue_agent(self, request: Request, tenant: str, agent: str, ttl: int) -> Issued:
        """A client certificate for an agent; `ttl` in seconds."""
        uri = str(SpiffeId.agent(self._domain, tenant, agent))
        return self._issue(request.public_key, agent, [_uri(uri)], ttl, client=True)

    def issue_operator(self, request: Request, name: str, role: str, ttl: int) -> Issued:
        """A client certificate for an operator with one role; `ttl` in seconds."""
        uris = [str(SpiffeId.operator(self._domain, name)), role_uri(self._domain, role)]
        return self._issue(request.public_key, name, [_uri(u) for u in uris], ttl, client=True)

    def issue_server(
        self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], ttl: int
    ) -> Issued:
        """The coordinator's own certificate for the names and addresses agents dial."""
        names: list[x509.GeneralName] = [_uri(str(SpiffeId.coordinator(self._domain)))]
        names += [_host(host) for host in hosts]
        return self._issue(key, "coordinator", names, ttl, client=False)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: Sequence[x509.GeneralName],
        ttl: int,
        *,
        client: bool,
    ) -> Issued:
        now = self._clock.now()
        not_after = min(now + ttl, self.not_after)
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        serial = _serial(self._rng)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(datetime.fromtimestamp(now - BACKDATE, UTC))
            .not_valid_after(datetime.fromtimestamp(not_after, UTC))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
            .sign(self._key, hashes.SHA256())
        )
        chain = (certificate.public_bytes(serialization.Encoding.DER),)
        return Issued(chain, f"{serial:x}", not_after)


def load_authority(
    key_pem: bytes, certificate_pem: bytes, trust_domain: str, clock: Clock, rng: Rng
) -> Authority:
    """The authority from its files. Raises: ValueError (unreadable, or they do not match)."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the CA key is not ECDSA")  # noqa: TRY004 (a file's content, no argument)
    if key.public_key() != certificate.public_key():
        raise ValueError("the CA key does not belong to the CA certificate")
    return Authority(key, certificate, trust_domain, clock, rng)


def new_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS#10 request (DER) for a key we hold, as init needs for its first operator."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def to_pem(chain: Sequence[bytes]) -> bytes:
    """DER certificates as one PEM file."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in chain
    )


def _serial(rng: Rng) -> int:
    # RFC 5280 4.1.2.2: positive, at most 20 octets.
    return int.from_bytes(rng.token(20), "big") >> 1 | 1


def _uri(value: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(value)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
