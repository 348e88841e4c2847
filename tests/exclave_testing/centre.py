"""The coordinator's audit rooms over a real database, called without a network between."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
from grpc.aio import AioRpcError, Metadata

from exclave_agent.errors import LinkError
from exclave_agent.link.status import audit_error
from exclave_agent.ports import AuditHead, TermClaim
from exclave_coordinator.api.errors import CODE_METADATA, EVIDENCE_METADATA, status_of
from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.export import Exporter
from exclave_coordinator.audit.oplog import OK, Act, OperatorLog
from exclave_coordinator.audit.receive import Receiver
from exclave_coordinator.audit.terms import Claim, Fence
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.errors import CoordinatorError, Fenced
from exclave_coordinator.ports import ACTIVE, Agent, AgentKey, Presence, Tenant, Tx
from exclave_coordinator.storage import database
from exclave_coordinator.storage.database import Database
from exclave_protocol.checkpoint import cosigned_origin, operator_origin
from exclave_protocol.evidence import Report, verify_bundle
from exclave_protocol.logcheck import Foreign
from exclave_protocol.note import SigningKey, VerifyKey

from .audit import signing_key, witness_key
from .clock import FakeClock
from .witnesses import key_of

DOMAIN = "example.test"
TENANT = "acme"
AGENT = AgentKey(TENANT, "edge-1")
SPIFFE = f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{AGENT.name}"
PIN = witness_key().vkey

T = TypeVar("T")

_UNFINISHED: list[io.BytesIO] = []
"""An export that is refused leaves its zip to the collector, which closes it: into these."""


class CentreClock(FakeClock):
    """Virtual time, for the coordinator as well."""

    def now(self) -> int:
        """Whole seconds."""
        return self.now_ns() // 10**9


class Centre:
    """Receiver, witness, own logs and exporter, as `coordinator.running` puts them together."""

    def __init__(self, path: Path, clock: CentreClock) -> None:
        self.path = path
        self.clock = clock
        self.alarms: list[str] = []
        new = not path.exists()
        if new:
            database.create(path)
        self.store = Database(path)
        self._workers = ThreadPoolExecutor(1)
        operators = key_of("operators")
        self.operators = OperatorLog(
            SigningKey(operator_origin(DOMAIN), operators), "test", clock=clock
        )
        self.cosigned = CosignedLog(
            SigningKey(cosigned_origin(DOMAIN), operators), PIN, "test", clock=clock
        )
        self.witness = Witness(
            self.store, DOMAIN, witness_key(), self.cosigned, clock=clock, alarm=self.alarms.append
        )
        self.fence = Fence(self.store, DOMAIN, b"secret", clock=clock, alarm=self.alarms.append)
        self.receiver = Receiver(self.store, DOMAIN, self.fence, workers=self._workers, clock=clock)
        self.exporter = Exporter(self.witness, self.operators, DOMAIN, clock=clock)
        if new:
            database.once(path, self._begin, writing=True)

    def _begin(self, tx: Tx) -> None:
        """A tenant with an agent, and what its operator did."""
        at = self.clock.now()
        tx.tenants.insert(Tenant(TENANT, at, b"", b""))
        audit = signing_key().verify_key.public
        tx.agents.upsert(Agent(AGENT, ACTIVE, b"", b"", audit, at, presence=Presence(at)))
        act = Act(f"spiffe://{DOMAIN}/operator/ann", "admin", "CreateTenant", f"tenant/{TENANT}")
        for _ in range(3):
            self.operators.append(tx, act, OK)

    def line(self, key: AgentKey = AGENT, audit_key: VerifyKey | None = None) -> DirectLine:
        """What an agent reaches."""
        return DirectLine(self, key, audit_key or signing_key().verify_key)

    async def evidence(self) -> list[str]:
        """Kinds of what was kept against the agent."""
        return [e.kind for e in await self.store.read(lambda tx: tx.logs.evidence(AGENT))]

    async def leaves(self) -> list[bytes]:
        """The agent's leaves as they are stored."""

        def job(tx: Tx) -> list[bytes]:
            log = tx.logs.get(AGENT, 1)
            return [leaf.data for leaf in tx.logs.leaves(log.id, 0, log.size)] if log else []

        return await self.store.read(job)

    async def export(self, path: Path, begin: int = 0, *, tenant: str = TENANT) -> Path:
        """A tenant's bundle from a time on. Raises: what the export raises."""

        out = io.BytesIO()
        _UNFINISHED.append(out)
        await self.store.read(lambda tx: self.exporter.write(tx, out, tenant, begin, 0))
        path.write_bytes(out.getvalue())
        _UNFINISHED.remove(out)
        return path

    def close(self) -> None:
        """Idempotent."""
        self.store.close()
        self._workers.shutdown()


class DirectLine:
    """A `ports.AuditSink`: refusals become what gRPC and the agent's link would make of them."""

    def __init__(self, centre: Centre, key: AgentKey, audit_key: VerifyKey) -> None:
        self._centre = centre
        self._key = key
        self._audit_key = audit_key.public

    async def head(self, epoch: int) -> AuditHead:
        """See `ports.AuditSink`."""
        found = await _told("Head", self._centre.receiver.head(self._key, epoch))
        log, opened, term = found.log, found.epoch_open, found.term
        if log is None:
            return AuditHead(0, 0, b"", opened, term)
        note = self._centre.witness.cosigned(log)
        return AuditHead(log.size, log.witnessed_size, note, opened, term)

    async def recorded(self, epoch: int) -> bytes:
        """See `ports.AuditSink`."""
        return await _told("Recorded", self._centre.witness.on_record(self._key, epoch))

    async def begin_term(self, claim: TermClaim) -> bytes:
        """See `ports.AuditSink`."""
        told = Claim(
            claim.epoch,
            claim.note,
            claim.old_size,
            claim.proof,
            claim.commitment,
            claim.nonces,
            claim.token,
        )
        call = self._centre.fence.begin(self._key, self._audit_key, told)
        return await _told("BeginTerm", call)

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int = 0
    ) -> int:
        """See `ports.AuditSink`."""
        receiver = self._centre.receiver
        call = receiver.append(self._key, self._audit_key, epoch, first_seq, leaves, term=term)
        return await _told("Append", call)

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """See `ports.AuditSink`."""
        call = self._centre.witness.witness(self._key, epoch, old_size, proof, checkpoint)
        return await _told("Witness", call)


async def _told(call: str, job: Awaitable[T]) -> T:
    try:
        return await job
    except Exception as error:
        raise _as_the_agent_sees_it(call, error) from error


def _as_the_agent_sees_it(call: str, error: Exception) -> LinkError:
    """Through both sides' tables of statuses; what the coordinator did not foresee is INTERNAL."""
    status, trailing, told = grpc.StatusCode.INTERNAL, Metadata(), "the coordinator failed"
    if isinstance(error, CoordinatorError):
        status, told = status_of(error), error.message
        trailing = Metadata((CODE_METADATA, error.code))
    if isinstance(error, Fenced):
        trailing.add(EVIDENCE_METADATA, error.note)
    return audit_error(AioRpcError(status, Metadata(), trailing, told), call)


def judge(bundle: Path, *kept: bytes) -> Report:
    """As an auditor who pins witness and agent, and brings the checkpoints that a tenant kept."""
    keys = [signing_key().vkey]
    brought = [Foreign(f"kept {number}", note) for number, note in enumerate(kept, 1)]
    return verify_bundle(bundle, witness_vkey=PIN, log_vkeys=keys, checkpoints=brought)


def said(report: Report) -> str:
    """Everything the failed steps say."""
    return "\n".join(step.detail for step in report.steps if not step.ok)
