"""Audit: leaves come up, cosignatures go down (audit.proto)."""

from __future__ import annotations

from typing import Any

from exclave_coordinator.api.auth import calling_agent
from exclave_coordinator.api.convert import number
from exclave_coordinator.audit.receive import Receiver
from exclave_coordinator.audit.terms import Claim, Fence
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.errors import Exists
from exclave_coordinator.telemetry.metrics import Metrics
from exclave_protocol.pb import audit_pb2 as pb
from exclave_protocol.pb.audit_pb2_grpc import AuditServicer


class AuditService(AuditServicer):
    """An agent's log is named after the agent in its certificate."""

    def __init__(
        self, receiver: Receiver, fence: Fence, witness: Witness, metrics: Metrics
    ) -> None:
        self._receiver = receiver
        self._fence = fence
        self._witness = witness
        self._metrics = metrics

    async def Head(self, request: pb.HeadRequest, _context: Any) -> pb.HeadResponse:
        """See audit.proto."""
        key = calling_agent().member.key
        found = await self._receiver.head(key, number(request.epoch, "epoch"))
        log = found.log
        return pb.HeadResponse(
            size=log.size if log is not None else 0,
            witnessed_size=log.witnessed_size if log is not None else 0,
            checkpoint=self._witness.cosigned(log) if log is not None else b"",
            term=found.term,
            epoch_open=found.epoch_open,
        )

    async def Recorded(self, request: pb.RecordedRequest, _context: Any) -> pb.RecordedResponse:
        """See audit.proto."""
        key, epoch = calling_agent().member.key, number(request.epoch, "epoch")
        return pb.RecordedResponse(proof=await self._witness.on_record(key, epoch))

    async def BeginTerm(self, request: pb.BeginTermRequest, _context: Any) -> pb.BeginTermResponse:
        """See audit.proto."""
        member = calling_agent().member
        claim = Claim(
            epoch=number(request.epoch, "epoch"),
            note=request.head,
            old_size=number(request.old_size, "old_size"),
            proof=request.consistency_proof,
            commitment=request.commitment,
            nonces=request.nonces,
            token=request.token,
        )
        token = await self._fence.begin(member.key, member.audit_key, claim)
        return pb.BeginTermResponse(token=token)

    async def Append(self, request: pb.AppendRequest, _context: Any) -> pb.AppendResponse:
        """See audit.proto."""
        member = calling_agent().member
        try:
            size = await self._receiver.append(
                member.key,
                member.audit_key,
                number(request.epoch, "epoch"),
                number(request.first_seq, "first_seq"),
                request.leaves,
                term=number(request.term, "term"),
            )
        except Exists:
            self._metrics.contradictions.labels("leaf").inc()
            raise
        self._metrics.leaves.inc(len(request.leaves))
        return pb.AppendResponse(size=size)

    async def Witness(self, request: pb.WitnessRequest, _context: Any) -> pb.WitnessResponse:
        """See audit.proto."""
        line = await self._witness.witness(
            calling_agent().member.key,
            number(request.epoch, "epoch"),
            number(request.old_size, "old_size"),
            request.consistency_proof,
            request.checkpoint,
        )
        return pb.WitnessResponse(cosignature=line)
