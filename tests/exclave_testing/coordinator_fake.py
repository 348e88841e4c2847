"""A coordinator small enough to lie: the agent's gRPC services over real TLS on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from exclave_agent.errors import AuditDiverged, IdentityError, LinkError
from exclave_agent.identity.transport import EnrollQuery, Issued, RecoverQuery
from exclave_agent.ports import TermClaim
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
from exclave_testing.desk import Desk
from exclave_testing.tuf_repo import Source

require_tls13()


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
        "epoch_not_open": grpc.StatusCode.FAILED_PRECONDITION,
        "term_stale": grpc.StatusCode.ABORTED,
        "term_denied": grpc.StatusCode.PERMISSION_DENIED,
        "term_inconsistent": grpc.StatusCode.DATA_LOSS,
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
            size=head.size,
            witnessed_size=head.witnessed_size,
            checkpoint=head.checkpoint,
            term=head.term,
            epoch_open=head.epoch_open,
        )

    async def Recorded(self, request: Any, context: Any) -> Any:
        work = self._sink.recorded(request.epoch)
        return audit_pb2.RecordedResponse(proof=await self._call(context, work))

    async def BeginTerm(self, request: Any, context: Any) -> Any:
        claim = TermClaim(
            request.epoch,
            request.head,
            request.old_size,
            list(request.consistency_proof),
            request.commitment,
            list(request.nonces),
            request.token,
        )
        token = await self._call(context, self._sink.begin_term(claim))
        return audit_pb2.BeginTermResponse(token=token)

    async def Append(self, request: Any, context: Any) -> Any:
        work = self._sink.append(
            request.epoch, request.first_seq, list(request.leaves), term=request.term
        )
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
        except AuditDiverged as error:
            details = (("exclave-code", error.code), ("exclave-evidence-bin", error.note))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message, details)
        except LinkError as error:
            status = self.STATUSES.get(error.code, grpc.StatusCode.UNAVAILABLE)
            await context.abort(status, error.message, (("exclave-code", error.code),))


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
