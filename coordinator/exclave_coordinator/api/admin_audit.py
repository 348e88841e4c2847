"""Admin's part for auditors: bundles out, the coordinator's own logs, and who cosigned them."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, BinaryIO, Final

from exclave_coordinator.api.convert import STATES, number
from exclave_coordinator.api.parts import Parts
from exclave_coordinator.audit.chain import OwnLog
from exclave_coordinator.audit.submit import Standing
from exclave_coordinator.config import outside_witnesses
from exclave_coordinator.errors import Invalid, NotFound
from exclave_coordinator.fleet.enroll import name
from exclave_coordinator.ports import Agent, AgentKey, ChainState, Log, Tx
from exclave_coordinator.witness_ports import Cosignature, OutsideLog
from exclave_protocol.chosen import Filter
from exclave_protocol.errors import EvidenceError
from exclave_protocol.pb import admin_pb2 as pb
from exclave_protocol.wire import CHUNK

MAX_LEAVES: Final = 1_000
"""Most leaves of one ReadOperatorLog."""
MAX_LOGS: Final = 20_000
"""Most logs of one ListAgentLogs."""
MAX_REPLY: Final = 4 << 20
"""Most leaf bytes of one ReadOperatorLog, and bytes of outside logs' notes of one ListWitnesses."""


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
        chosen = _filter(request)
        details = {"from": str(begin), "to": str(end)}
        for kind, names in chosen.to_json().items():
            if isinstance(names, list) and names:
                details[kind] = ", ".join(map(str, names))
        act = parts.recorder.act("ExportAudit", f"tenant/{tenant}", details)
        # Anonymous: gone with the handle, whatever becomes of this process.
        with tempfile.TemporaryFile(dir=parts.spool) as file:

            def job(tx: Tx) -> str:
                parts.exporter.write(tx, file, tenant, begin, end, chosen)
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

        own = self._own(request.log)

        def job(tx: Tx) -> tuple[ChainState, list[bytes]]:
            chain = own.table(tx)
            state = chain.state()
            leaves: list[bytes] = []
            room = MAX_REPLY
            for leaf in chain.leaves(first, min(state.size, first + limit)):
                room -= len(leaf.data)
                if room < 0:
                    break
                leaves.append(leaf.data)
            return state, leaves

        state, leaves = await self._parts.store.read(job)
        return pb.ReadOperatorLogResponse(
            leaves=leaves, size=state.size, checkpoint=own.checkpoint(state)
        )

    def _own(self, which: pb.ReadOperatorLogRequest.Log) -> OwnLog:
        if which == pb.ReadOperatorLogRequest.OPERATORS:
            return self._parts.operators
        if which == pb.ReadOperatorLogRequest.COSIGNED:
            return self._parts.cosigned
        raise Invalid("log: must be OPERATORS or COSIGNED")

    async def ListWitnesses(
        self, _request: pb.ListWitnessesRequest, _context: Any
    ) -> pb.ListWitnessesResponse:
        """See admin.proto."""
        parts = self._parts

        def job(tx: Tx) -> pb.ListWitnessesResponse:
            stored, logs = tx.witnessing.cosignatures(), tx.witnessing.logs()
            fitting = list(_fitting(logs))
            return pb.ListWitnessesResponse(
                own=[_own_log(parts, own, tx, stored) for own in (parts.operators, parts.cosigned)],
                outside=[_outside_log(log) for log in fitting],
                witness_vkey=parts.witness.vkey,
                outside_left_out=len(logs) - len(fitting),
            )

        return await parts.store.read(job)

    async def ListAgentLogs(
        self, request: pb.ListAgentLogsRequest, _context: Any
    ) -> pb.ListAgentLogsResponse:
        """See admin.proto."""
        tenant = name(request.tenant, "tenant") if request.tenant else ""

        def job(tx: Tx) -> pb.ListAgentLogsResponse:
            if tenant and tx.tenants.get(tenant) is None:
                raise NotFound("no tenant of this name")
            agents = tx.agents.all(tenant)
            logs: dict[AgentKey, list[Log]] = {}
            for each in sorted({agent.key.tenant for agent in agents}):
                for log in tx.logs.of_tenant(each):
                    logs.setdefault(log.key, []).append(log)
            found = [
                message
                for agent in sorted(agents, key=lambda one: (one.key.tenant, one.key.name))
                for message in _agent_logs(tx, agent, logs.get(agent.key, []))
            ]
            return pb.ListAgentLogsResponse(
                logs=found[:MAX_LOGS], left_out=max(len(found) - MAX_LOGS, 0)
            )

        return await self._parts.store.read(job)


def _filter(request: pb.ExportAuditRequest) -> Filter:
    """Which decisions are asked for. Raises: Invalid."""
    made = {
        "models": list(request.models),
        "workflows": list(request.workflows),
        "commitments": list(request.commitments),
    }
    try:
        return Filter.from_json({name: list(values) for name, values in made.items()})
    except EvidenceError as error:
        raise Invalid(error.message) from error


def _agent_logs(tx: Tx, agent: Agent, logs: Sequence[Log]) -> Iterator[pb.AgentLog]:
    """Of one agent, by epoch; one without leaves when there is none."""
    evidence = Counter(each.epoch for each in tx.logs.evidence(agent.key))
    state = STATES[agent.state]
    tenant, seen = agent.key.tenant, agent.presence.last_seen
    if not logs:
        yield pb.AgentLog(tenant=tenant, agent=agent.key.name, state=state, last_seen=seen)
    for log in logs:
        last = tx.logs.leaf(log.id, log.size - 1)
        yield pb.AgentLog(
            tenant=tenant,
            agent=agent.key.name,
            state=state,
            last_seen=seen,
            epoch=log.epoch,
            size=log.size,
            witnessed_size=log.witnessed_size,
            witnessed_at=log.witnessed_at,
            last_leaf=0 if last is None else last.time_ns // 10**9,
            contradictions=evidence[log.epoch],
        )


def _own_log(parts: Parts, own: OwnLog, tx: Tx, stored: Sequence[Cosignature]) -> pb.OwnLog:
    state = own.table(tx).state()
    given = {item.witness: item for item in stored if item.log == own.origin}
    configured = [key.vkey for _, key in outside_witnesses(parts.settings)]
    cosignatures = []
    for vkey in dict.fromkeys([*configured, *given]):
        item = given.get(vkey)
        standing = parts.submitter.standing.get((own.origin, vkey), Standing())
        cosignatures.append(
            pb.OutsideCosignature(
                witness_vkey=vkey,
                size=item.size if item else 0,
                cosigned_at=item.cosigned_at if item else 0,
                note=item.note if item else b"",
                configured=vkey in configured,
                error=standing.code,
                message=standing.message[:500],
            )
        )
    return pb.OwnLog(
        origin=own.origin,
        vkey=own.vkey,
        size=state.size,
        checkpoint=own.checkpoint(state),
        cosignatures=cosignatures,
    )


def _fitting(logs: Sequence[OutsideLog]) -> Iterator[OutsideLog]:
    """As many as have room in one reply: their notes are as long as those logs like."""
    room = MAX_REPLY
    for log in logs:
        room -= len(log.checkpoint) + sum(map(len, log.fork or ()))
        if room < 0:
            return
        yield log


def _outside_log(log: OutsideLog) -> pb.OutsideLog:
    return pb.OutsideLog(
        origin=log.origin,
        size=log.size,
        cosigned_at=log.cosigned_at,
        note=log.checkpoint,
        fork=log.fork or (),
    )


def _digest(file: BinaryIO) -> str:
    """SHA-256 of a whole file, which is then at its beginning again."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
