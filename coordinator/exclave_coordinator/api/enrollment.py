"""Enrollment and Identity: how agents get and keep certificates (enrollment.proto)."""

from __future__ import annotations

from typing import Any

from exclave_coordinator.api.auth import calling_agent
from exclave_coordinator.api.parts import Endpoints
from exclave_coordinator.fleet.certificates import Authority
from exclave_coordinator.fleet.enroll import Enrolled, Enrollment
from exclave_coordinator.telemetry.metrics import Metrics
from exclave_protocol.identity import SpiffeId
from exclave_protocol.pb import enrollment_pb2 as pb
from exclave_protocol.pb.enrollment_pb2_grpc import EnrollmentServicer, IdentityServicer


class Answers:
    """What every new certificate is handed out with."""

    def __init__(
        self,
        trust_domain: str,
        authority: Authority,
        *,
        endpoints: Endpoints,
        witness_vkey: str,
        director_key: bytes,
        metrics: Metrics,
    ) -> None:
        self._domain = trust_domain
        self._authority = authority
        self._endpoints = endpoints
        self._vkey = witness_vkey
        self._director = director_key
        self._metrics = metrics

    def make(self, enrolled: Enrolled, purpose: str) -> pb.EnrollResponse:
        """The answer to Enroll, Recover and Renew."""
        self._metrics.certificates.labels(purpose).inc()
        spiffe = SpiffeId.agent(self._domain, enrolled.key.tenant, enrolled.key.name)
        return pb.EnrollResponse(
            spiffe_id=str(spiffe),
            certificate_chain=enrolled.issued.chain,
            ca_bundle=[self._authority.der],
            not_after=enrolled.issued.not_after,
            session_endpoint=self._endpoints.session,
            witness_vkey=self._vkey,
            director_public_key=self._director,
        )


class EnrollmentService(EnrollmentServicer):
    """Served without client certificates: the token or the proof says who calls."""

    def __init__(self, enrollment: Enrollment, answers: Answers) -> None:
        self._enrollment = enrollment
        self._answers = answers

    async def Enroll(self, request: pb.EnrollRequest, _context: Any) -> pb.EnrollResponse:
        """See enrollment.proto."""
        enrolled = await self._enrollment.enroll(
            request.tenant,
            request.token_id,
            request.token_secret,
            request.csr,
            request.agent,
            request.audit_public_key,
        )
        return self._answers.make(enrolled, "enroll")

    async def Recover(self, request: pb.RecoverRequest, _context: Any) -> pb.EnrollResponse:
        """See enrollment.proto."""
        enrolled = await self._enrollment.recover(
            request.tenant, request.agent, request.csr, request.timestamp, request.proof
        )
        return self._answers.make(enrolled, "recover")


class IdentityService(IdentityServicer):
    """Served on the mTLS port to agents."""

    def __init__(self, enrollment: Enrollment, answers: Answers) -> None:
        self._enrollment = enrollment
        self._answers = answers

    async def Renew(self, request: pb.RenewRequest, _context: Any) -> pb.EnrollResponse:
        """See enrollment.proto."""
        enrolled = await self._enrollment.renew(calling_agent().member.key, request.csr)
        return self._answers.make(enrolled, "renew")
