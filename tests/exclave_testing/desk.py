"""A CA and an enrollment desk in memory: what a joining agent meets, honest or not."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity.transport import EnrollQuery, Issued, RecoverQuery
from exclave_protocol.identity import JoinToken, SpiffeId
from exclave_testing.tuf_repo import AGENT, DOMAIN, TENANT, key

WITNESS = "example.org/witness+00000000+AAAA"
PIN = "ab" * 32
Now = Callable[[], float]


class Ca:
    """An ECDSA P-256 authority that certifies whatever it is asked to."""

    def __init__(self, now: Now, name: str = "test ca") -> None:
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(subject, subject, self._key.public_key(), 10 * 365 * 86_400)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def sha256(self) -> str:
        """What a join token pins."""
        return hashlib.sha256(self.der).hexdigest()

    def issue(self, public: Any, names: Sequence[x509.GeneralName], ttl: float = 86_400) -> bytes:
        """A leaf, DER."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        builder = self._builder(subject, self.certificate.subject, public, ttl)
        return (
            builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )

    def agent(self, public: Any, spiffe: str, ttl: float = 86_400) -> bytes:
        """An agent's leaf, DER."""
        return self.issue(public, [x509.UniformResourceIdentifier(spiffe)], ttl)

    def server(self) -> tuple[bytes, bytes]:
        """(key PEM, chain PEM) of a server on 127.0.0.1; the chain ends with the CA itself."""
        server = ec.generate_private_key(ec.SECP256R1())
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        leaf = x509.load_der_x509_certificate(self.issue(server.public_key(), [address]))
        pem = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, leaf.public_bytes(Encoding.PEM) + self.pem

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public: Any, ttl: float
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(self._now(), UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(seconds=ttl))
        )


@dataclass
class Desk:
    """Enrollment as the coordinator does it; JoinTransport and RenewTransport in one."""

    now: Now
    ttl: float = 86_400
    token: JoinToken = field(init=False)
    ca: Ca = field(init=False)
    spent_by: bytes | None = None
    bound: Any = None
    banned: bool = False
    failure: IdentityError | LinkError | None = None
    """Raised by the next calls, until it is cleared."""
    lose_answers: int = 0
    """So many enrollments happen, and their answers are lost."""
    alter: Callable[[Issued], Issued] = lambda issued: issued
    """Changes every answer, as a lying coordinator would."""
    calls: list[str] = field(default_factory=list)
    endpoint: str = "127.0.0.1:7444"
    session_endpoint: str = "127.0.0.1:7443"

    def __post_init__(self) -> None:
        self.ca = Ca(self.now)
        self.token = self.new_token()

    def new_token(self, **changes: Any) -> JoinToken:
        """A token of this coordinator."""
        fields = {
            "tenant": TENANT,
            "token_id": "0" * 31 + "1",
            "secret": b"s" * 32,
            "endpoint": self.endpoint,
            "ca_sha256": self.ca.sha256,
            "root_pin": PIN,
            "agent": AGENT,
        }
        return JoinToken(**{**fields, **changes})

    async def presented_chain(self, endpoint: str) -> Sequence[bytes]:
        self.calls.append("chain")
        await asyncio.sleep(0)
        self._fail()
        stranger = Ca(self.now, "stranger")
        return [stranger.der, self.ca.der]

    async def enroll(self, endpoint: str, ca: bytes, query: EnrollQuery) -> Issued:
        self.calls.append("enroll")
        assert ca == self.ca.der
        self._fail()
        public = x509.load_der_x509_csr(query.csr).public_key()
        raw = public_raw(public)
        if (query.token_id, query.token_secret) != (self.token.token_id, self.token.secret):
            raise IdentityError("token unknown", code="token_unknown")
        if self.spent_by not in (None, raw):
            raise IdentityError("token spent", code="token_spent")
        self.spent_by, self.bound = raw, public
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise LinkError("the answer was lost", code="unreachable")
        return self._issue(public, query.agent or "edge-x")

    async def renew(self, csr: bytes) -> Issued:
        self.calls.append("renew")
        self._fail()
        return self._issue(x509.load_der_x509_csr(csr).public_key(), AGENT)

    async def recover(self, query: RecoverQuery) -> Issued:
        self.calls.append("recover")
        self._fail()
        message = (
            f"exclave-recover-v1\n{query.tenant}\n{query.agent}\n{query.timestamp}\n".encode()
            + hashlib.sha256(query.csr).digest()
        )
        try:
            self.bound.verify(query.proof, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise IdentityError("bad proof", code="recovery_refused") from None
        return self._issue(x509.load_der_x509_csr(query.csr).public_key(), query.agent)

    def _issue(self, public: Any, agent: str) -> Issued:
        if self.banned:
            raise IdentityError("banned", code="banned")
        spiffe = str(SpiffeId.agent(DOMAIN, TENANT, agent))
        issued = Issued(
            spiffe_id=spiffe,
            chain=(self.ca.agent(public, spiffe, self.ttl),),
            ca_bundle=(self.ca.der,),
            session_endpoint=self.session_endpoint,
            witness_vkey=WITNESS,
            director_key=key("director").public_key().public_bytes_raw(),
        )
        return self.alter(issued)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def public_raw(public: Any) -> bytes:
    """A public key as comparable bytes."""
    numbers = public.public_numbers()
    return int(numbers.x).to_bytes(32, "big") + int(numbers.y).to_bytes(32, "big")
