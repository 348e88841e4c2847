"""The coordinator's Audit service as `ports.AuditSink`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from exclave_agent.link.channel import Channels
from exclave_agent.link.status import audit_error, link_error
from exclave_agent.ports import AuditHead, TermClaim
from exclave_protocol.pb import audit_pb2 as pb
from exclave_protocol.pb.audit_pb2_grpc import AuditStub

TIMEOUT: Final = 60.0
"""Seconds for one call; the largest carries 2 MiB of leaves."""


class GrpcAudit:
    """Uploads this agent's leaves and has its checkpoints witnessed."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def head(self, epoch: int) -> AuditHead:
        """Audit.Head."""
        stub = AuditStub(self._channels.bulk())
        try:
            answer = await stub.Head(pb.HeadRequest(epoch=epoch), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise link_error(error, "Head") from error
        return AuditHead(
            answer.size,
            answer.witnessed_size,
            answer.checkpoint,
            max(answer.epoch_open, 1),
            answer.term,
        )

    async def recorded(self, epoch: int) -> bytes:
        """Audit.Recorded."""
        stub = AuditStub(self._channels.bulk())
        try:
            answer = await stub.Recorded(pb.RecordedRequest(epoch=epoch), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise link_error(error, "Recorded") from error
        return bytes(answer.proof)

    async def begin_term(self, claim: TermClaim) -> bytes:
        """Audit.BeginTerm."""
        request = pb.BeginTermRequest(
            epoch=claim.epoch,
            head=claim.note,
            old_size=claim.old_size,
            consistency_proof=claim.proof,
            commitment=claim.commitment,
            nonces=claim.nonces,
            token=claim.token,
        )
        stub = AuditStub(self._channels.bulk())
        try:
            answer = await stub.BeginTerm(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise audit_error(error, "BeginTerm") from error
        return bytes(answer.token)

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int
    ) -> int:
        """Audit.Append."""
        request = pb.AppendRequest(epoch=epoch, first_seq=first_seq, leaves=leaves, term=term)
        stub = AuditStub(self._channels.bulk())
        try:
            answer = await stub.Append(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise audit_error(error, "Append") from error
        return int(answer.size)

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """Audit.Witness."""
        request = pb.WitnessRequest(
            epoch=epoch, old_size=old_size, consistency_proof=proof, checkpoint=checkpoint
        )
        stub = AuditStub(self._channels.bulk())
        try:
            answer = await stub.Witness(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise audit_error(error, "Witness") from error
        return bytes(answer.cosignature)
