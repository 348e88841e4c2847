"""A coordinator small enough to lie: a CA, an enrollment desk, and the agent's gRPC services.

`Desk` answers enrollment in memory (identity tests); `FakeCoordinator` serves it and the other
services over real TLS on loopback (link tests).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity.transport import EnrollQuery, Issued, RecoverQuery
from exclave_protocol.identity import JoinToken, SpiffeId
from exclave_protocol.pb import (
    artifact_pb2,
    artifact_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
)
from exclave_protocol.wire import SERVER_OPTIONS, require_tls13
from exclave_testing.audit import FakeAuditSink
from exclave_testing.tuf_repo import AGENT, DOMAIN, TENANT, Source, key

require_tls13()

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


# --- over gRPC ------------------------------------------------------------------------------

Script = Callable[["FakeStream"], Any]


class FakeStream:
    """One Fleet.Session seen from the server; a test's script drives it."""

    def __init__(self, incoming: AsyncIterator[Any], context: Any) -> None:
        self.incoming = incoming
        self.context = context
        self.hello: fleet_pb2.Hello | None = None
        self.received: list[Any] = []
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()

    async def until(self, condition: Callable[[FakeStream], bool]) -> None:
        """Read messages until the condition holds."""
        while not condition(self):
            self.received.append(await anext(self.incoming))

    def observed(self) -> fleet_pb2.Observed:
        """The newest observation received."""
        seen: fleet_pb2.Observed = [m for m in self.received if m.HasField("observed")][-1].observed
        return seen


@dataclass
class FakeCoordinator:
    """Serves the agent's four services and enrollment on loopback, each with every fault."""

    desk: Desk
    source: Source = field(default_factory=Source)
    sink: FakeAuditSink | None = None
    script: Callable[[FakeStream, FakeCoordinator], AsyncIterator[Any]] | None = None
    """What a session does after Welcome: yields CoordinatorMessages."""
    welcome: bool = True
    abort: tuple[grpc.StatusCode, str, str] | None = None
    """(status, exclave-code, detail): every call fails so."""
    streams: list[FakeStream] = field(default_factory=list)
    peers: list[bytes] = field(default_factory=list)
    """Client certificate (PEM) of every session."""
    ports: tuple[int, int] = (0, 0)
    """mTLS and enrollment; chosen at the first start and kept."""

    async def start(self) -> None:
        """Listen on two free ports, or on those of the run before."""
        self.server, self.enroll_server = (
            grpc.aio.server(options=list(SERVER_OPTIONS)),
            (grpc.aio.server(options=list(SERVER_OPTIONS))),
        )
        fleet_pb2_grpc.add_FleetServicer_to_server(_Fleet(self), self.server)
        artifact_pb2_grpc.add_ArtifactServicer_to_server(_Artifact(self), self.server)
        audit_pb2_grpc.add_AuditServicer_to_server(_Audit(self), self.server)
        enrollment_pb2_grpc.add_IdentityServicer_to_server(_Identity(self), self.server)
        enrollment_pb2_grpc.add_EnrollmentServicer_to_server(_Enrollment(self), self.enroll_server)
        pair = self.desk.ca.server()
        mutual = grpc.ssl_server_credentials([pair], self.desk.ca.pem, require_client_auth=True)
        port = self.server.add_secure_port(f"127.0.0.1:{self.ports[0]}", mutual)
        enroll = self.enroll_server.add_secure_port(
            f"127.0.0.1:{self.ports[1]}", grpc.ssl_server_credentials([pair])
        )
        self.ports = (port, enroll)
        self.desk.session_endpoint = f"127.0.0.1:{port}"
        self.desk.endpoint = f"127.0.0.1:{enroll}"
        self.desk.token = self.desk.new_token()
        await self.server.start()
        await self.enroll_server.start()

    async def stop(self) -> None:
        """Cut every connection."""
        await self.server.stop(None)
        await self.enroll_server.stop(None)

    async def check(self, context: Any) -> None:
        """Fail the call if the test asked for it."""
        if self.abort is not None:
            status, code, detail = self.abort
            await context.abort(status, detail, (("exclave-code", code),))


async def _abort(context: Any, error: IdentityError | LinkError) -> None:
    status = grpc.StatusCode.UNAVAILABLE
    if isinstance(error, IdentityError):
        status = grpc.StatusCode.PERMISSION_DENIED
    elif error.code == "not_found":
        status = grpc.StatusCode.NOT_FOUND
    await context.abort(status, error.message, (("exclave-code", error.code),))


def _reply(issued: Issued) -> enrollment_pb2.EnrollResponse:
    return enrollment_pb2.EnrollResponse(
        spiffe_id=issued.spiffe_id,
        certificate_chain=issued.chain,
        ca_bundle=issued.ca_bundle,
        session_endpoint=issued.session_endpoint,
        witness_vkey=issued.witness_vkey,
        director_public_key=issued.director_key,
    )


class _Enrollment(enrollment_pb2_grpc.EnrollmentServicer):
    def __init__(self, owner: FakeCoordinator) -> None:
        self.owner = owner

    async def Enroll(self, request: Any, context: Any) -> Any:
        await self.owner.check(context)
        query = EnrollQuery(
            request.tenant,
            request.token_id,
            request.token_secret,
            request.csr,
            request.agent,
            request.audit_public_key,
        )
        try:
            return _reply(await self.owner.desk.enroll("", self.owner.desk.ca.der, query))
        except (IdentityError, LinkError) as error:
            await _abort(context, error)

    async def Recover(self, request: Any, context: Any) -> Any:
        await self.owner.check(context)
        query = RecoverQuery(
            request.tenant, request.agent, request.csr, request.timestamp, request.proof
        )
        try:
            return _reply(await self.owner.desk.recover(query))
        except (IdentityError, LinkError) as error:
            await _abort(context, error)


class _Identity(enrollment_pb2_grpc.IdentityServicer):
    def __init__(self, owner: FakeCoordinator) -> None:
        self.owner = owner

    async def Renew(self, request: Any, context: Any) -> Any:
        await self.owner.check(context)
        return _reply(await self.owner.desk.renew(request.csr))


class _Artifact(artifact_pb2_grpc.ArtifactServicer):
    def __init__(self, owner: FakeCoordinator) -> None:
        self.owner = owner

    async def Metadata(self, request: Any, context: Any) -> Any:
        await self.owner.check(context)
        try:
            data = await self.owner.source.metadata(request.name)
        except LinkError as error:
            return await _abort(context, error)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such metadata")
        return artifact_pb2.MetadataResponse(content=data)

    async def Read(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.owner.check(context)
        at = request.offset
        try:
            async for piece in self.owner.source.read(request.sha256, request.offset):
                yield artifact_pb2.ReadChunk(offset=at, data=piece)
                at += len(piece)
        except LinkError as error:
            await _abort(context, error)


class _Audit(audit_pb2_grpc.AuditServicer):
    """Over the in-memory sink, its codes as the statuses that audit.proto gives them."""

    STATUSES = {  # noqa: RUF012 (a constant table)
        "batch_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "gap": grpc.StatusCode.OUT_OF_RANGE,
        "leaf_conflict": grpc.StatusCode.ALREADY_EXISTS,
        "leaf_invalid": grpc.StatusCode.INVALID_ARGUMENT,
        "witness_stale": grpc.StatusCode.ABORTED,
        "witness_denied": grpc.StatusCode.PERMISSION_DENIED,
        "witness_missing_leaves": grpc.StatusCode.FAILED_PRECONDITION,
        "witness_inconsistent": grpc.StatusCode.DATA_LOSS,
    }

    def __init__(self, owner: FakeCoordinator) -> None:
        self.owner = owner

    async def Head(self, request: Any, context: Any) -> Any:
        head = await self._call(context, self._sink.head(request.epoch))
        return audit_pb2.HeadResponse(
            size=head.size, witnessed_size=head.witnessed_size, checkpoint=head.checkpoint
        )

    async def Append(self, request: Any, context: Any) -> Any:
        work = self._sink.append(request.epoch, request.first_seq, list(request.leaves))
        return audit_pb2.AppendResponse(size=await self._call(context, work))

    async def Witness(self, request: Any, context: Any) -> Any:
        proof = list(request.consistency_proof)
        work = self._sink.witness(request.epoch, request.old_size, proof, request.checkpoint)
        return audit_pb2.WitnessResponse(cosignature=await self._call(context, work))

    @property
    def _sink(self) -> FakeAuditSink:
        assert self.owner.sink is not None
        return self.owner.sink

    async def _call(self, context: Any, work: Any) -> Any:
        try:
            return await work
        except LinkError as error:
            status = self.STATUSES.get(error.code, grpc.StatusCode.UNAVAILABLE)
            await context.abort(status, error.message)


class _Fleet(fleet_pb2_grpc.FleetServicer):
    def __init__(self, owner: FakeCoordinator) -> None:
        self.owner = owner

    async def Session(self, incoming: Any, context: Any) -> AsyncIterator[Any]:
        await self.owner.check(context)
        stream = FakeStream(incoming, context)
        self.owner.streams.append(stream)
        self.owner.peers.append(next(iter(context.auth_context().get("x509_pem_cert", [b""]))))
        first = await anext(incoming)
        stream.hello = first.hello
        if self.owner.welcome:
            yield fleet_pb2.CoordinatorMessage(
                welcome=fleet_pb2.Welcome(time=int(self.owner.desk.now()), counts_interval=10)
            )
        if self.owner.script is not None:
            async for message in self.owner.script(stream, self.owner):
                yield message
            return
        while True:
            yield await stream.outgoing.get()
