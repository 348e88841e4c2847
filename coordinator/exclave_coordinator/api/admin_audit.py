"""Admin's part for auditors: bundles out, and the operators' own log."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any, BinaryIO, Final

from exclave_coordinator.api.convert import number
from exclave_coordinator.api.parts import Parts
from exclave_coordinator.errors import Invalid
from exclave_coordinator.fleet.enroll import name
from exclave_coordinator.ports import ChainState, Tx
from exclave_protocol.pb import admin_pb2 as pb
from exclave_protocol.wire import CHUNK

MAX_LEAVES: Final = 1_000
"""Most leaves of one ReadOperatorLog."""
MAX_REPLY: Final = 4 << 20
"""Most leaf bytes of one ReadOperatorLog."""


class AuditCalls:
    """What happened."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def ExportAudit(
        self, request: pb.ExportAuditRequest, _context: Any
    ) -> AsyncIterator[pb.ExportAuditChunk]:
        """See admin.proto.

        MUST: the export is on record, with the digest of what leaves, before its first byte
        does.
        """
        parts = self._parts
        tenant = name(request.tenant, "tenant")
        begin, end = getattr(request, "from"), request.to
        act = parts.recorder.act(
            "ExportAudit", f"tenant/{tenant}", {"from": str(begin), "to": str(end)}
        )
        # Anonymous: gone with the handle, whatever becomes of this process.
        with tempfile.TemporaryFile(dir=parts.spool) as file:

            def job(tx: Tx) -> str:
                parts.exporter.write(tx, file, tenant, begin, end)
                return _digest(file)

            async with parts.recorder.attempt(act):
                async with parts.exporter.turns:
                    digest = await parts.store.read(job)
                act.details = {**act.details, "sha256": digest}
                await parts.recorder.commit(act, lambda _tx: None)
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield pb.ExportAuditChunk(data=chunk)

    async def ReadOperatorLog(
        self, request: pb.ReadOperatorLogRequest, _context: Any
    ) -> pb.ReadOperatorLogResponse:
        """See admin.proto."""
        first, limit = number(request.first_seq, "first_seq"), request.limit or MAX_LEAVES
        if limit > MAX_LEAVES:
            raise Invalid(f"limit: {limit} where at most {MAX_LEAVES} are allowed")

        def job(tx: Tx) -> tuple[ChainState, list[bytes]]:
            state = tx.operators.state()
            leaves: list[bytes] = []
            room = MAX_REPLY
            for leaf in tx.operators.leaves(first, min(state.size, first + limit)):
                room -= len(leaf.data)
                if room < 0:
                    break
                leaves.append(leaf.data)
            return state, leaves

        state, leaves = await self._parts.store.read(job)
        return pb.ReadOperatorLogResponse(
            leaves=leaves, size=state.size, checkpoint=self._parts.operators.checkpoint(state)
        )


def _digest(file: BinaryIO) -> str:
    """SHA-256 of a whole file, which is then at its beginning again."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
