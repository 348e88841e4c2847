"""One tenant's audit bundle: what is stored, as it is; to judge is the verifier's part."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from exclave_coordinator.audit.chain import EPOCH
from exclave_coordinator.audit.oplog import OperatorLog
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.errors import Invalid, NotFound, StorageError, StorageFull
from exclave_coordinator.ports import AgentKey, Clock, Log, StoredLeaf, Tx
from exclave_protocol.bundle import BundleSpec, LogSpec, Written, write_bundle
from exclave_protocol.checkpoint import Checkpoint, agent_log_key, log_origin
from exclave_protocol.chosen import EVERYTHING, Filter
from exclave_protocol.errors import EvidenceError, LeafError
from exclave_protocol.layout import wanted
from exclave_protocol.leaf import Leaf, decode_leaf
from exclave_protocol.note import split_note
from exclave_protocol.standalone import verifier

AT_ONCE = 2
"""Most bundles written at once: each holds one of the store's readers for as long as it takes,
and the others must stay free for agents."""
_FOREVER = 2**63 - 1
_LATEST = 9_000_000_000
"""Seconds whose nanoseconds still fit 64 bits."""
_MAX_SEEN = 9_999


class Exporter:
    """Writes bundles from one consistent snapshot of the database."""

    def __init__(
        self,
        witness: Witness,
        operators: OperatorLog,
        trust_domain: str,
        *,
        clock: Clock,
        spool: Path | None = None,
    ) -> None:
        """`spool`: a folder for what cannot be held while a bundle is written."""
        self._spool = spool
        self._witness = witness
        self._operators = operators
        self._domain = trust_domain
        self._clock = clock
        self.turns = asyncio.Semaphore(AT_ONCE)
        """Held by whoever calls `write`."""

    def write(
        self,
        tx: Tx,
        out: BinaryIO,
        tenant: str,
        begin: int,
        end: int,
        chosen: Filter = EVERYTHING,
    ) -> Written:
        """Write the bundle of [begin, end), seconds since the epoch; 0: open. Blocks.

        Raises: NotFound (tenant), Invalid (times), StorageError (`out` cannot be written).
        """
        try:
            return self._write(tx, out, tenant, begin, end, chosen)
        except EvidenceError as error:
            raise StorageError(
                f"the bundle would not verify: {error.message}; the coordinator's database is "
                "damaged, or was changed: restore it from a backup",
                code="database_altered",
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("the disk is full; no bundle was written") from error
            raise StorageError(f"the bundle cannot be written ({error.strerror})") from error

    def _write(
        self, tx: Tx, out: BinaryIO, tenant: str, begin: int, end: int, chosen: Filter
    ) -> Written:
        if not 0 <= begin <= _LATEST or not 0 <= end <= _LATEST or (end and end <= begin):
            raise Invalid("from, to: must be seconds since the epoch, from before to")
        if tx.tenants.get(tenant) is None:
            raise NotFound("no tenant of this name")
        return write_bundle(
            out,
            BundleSpec(
                tenant=tenant,
                trust_domain=self._domain,
                created_ns=self._clock.now_ns(),
                time_from=begin,
                time_to=end,
                witness_vkey=self._witness.vkey,
                agents={a.key.name: a.presence.last_seen for a in tx.agents.all(tenant)},
                logs=self._logs(tx, tenant, begin, end, chosen),
                filter=chosen,
                verifier=verifier(),
                page=True,
                signer=self._operators.private,
                spool=self._spool,
            ),
        )

    def _logs(self, tx: Tx, tenant: str, begin: int, end: int, chosen: Filter) -> Iterator[LogSpec]:
        span = (begin * 10**9, end * 10**9 if end else _FOREVER)
        for log in tx.logs.of_tenant(tenant):
            yield self._agent_log(tx, log, span, chosen)
        state = tx.operators.state()
        first, stop = tx.operators.span(state.size, *span)
        yield LogSpec(
            agent="",
            epoch=EPOCH,
            origin=self._operators.origin,
            vkey=self._operators.vkey,
            checkpoint=self._operators.checkpoint(state),
            hashes=tx.operators.hashes(0, state.size),
            first=first,
            end=stop,
            uploaded=state.size,
            records=(
                item
                for part in wanted(first, stop, state.size)
                for item in _records(tx.operators.leaves(part.start, part.stop))
            ),
        )

    def _agent_log(self, tx: Tx, log: Log, span: tuple[int, int], chosen: Filter) -> LogSpec:
        size = log.witnessed_size
        first, stop = tx.logs.span(log.id, size, *span)
        origin = log_origin(self._domain, log.key.tenant, log.key.name, log.epoch)
        agent = tx.agents.get(log.key)
        return LogSpec(
            agent=log.key.name,
            epoch=log.epoch,
            origin=origin,
            vkey=agent_log_key(origin, log.audit_key).vkey,
            checkpoint=self._witness.cosigned(log),
            hashes=tx.logs.hashes(log.id, 0, size),
            first=first,
            end=stop,
            uploaded=log.size,
            records=(
                item
                for part in wanted(first, stop, size, log.epoch)
                for item in _records(_asked_for(tx, log, part, range(first, stop), chosen))
            ),
            recorded=self._recorded(tx, log),
            seen=_seen(tx, log.key, log.epoch),
            registration={
                "tenant": log.key.tenant,
                "agent": log.key.name,
                "state": agent.state if agent is not None else "unknown",
                "enrolled": str(agent.created if agent is not None else 0),
            },
        )

    def _recorded(self, tx: Tx, log: Log) -> bytes:
        """That what we cosigned is in the witness's log; empty where it is not: to judge that is
        the verifier's part."""
        if not log.checkpoint:
            return b""
        head = Checkpoint.parse(split_note(log.checkpoint)[0])
        proof = self._witness.recorded(tx, head, log.witnessed_at)
        return proof.encode() if proof is not None else b""


def _asked_for(tx: Tx, log: Log, part: range, span: range, chosen: Filter) -> Iterator[StoredLeaf]:
    """The leaves of `part`; of those in `span` only what the filter keeps. What does not decode is
    kept: the auditor is to see it."""
    found = tx.logs.leaves(log.id, part.start, part.stop)
    if not chosen:
        yield from found
        return
    decisions = chosen.chosen(
        leaf
        for stored in tx.logs.leaves(log.id, span.start, span.stop)
        if (leaf := _decoded(stored)) is not None
    )
    for stored in found:
        leaf = _decoded(stored)
        if stored.seq not in span or leaf is None or chosen.keeps(leaf, decisions):
            yield stored


def _decoded(stored: StoredLeaf) -> Leaf | None:
    try:
        return decode_leaf(stored.data)
    except LeafError:
        return None


def _records(leaves: Iterator[StoredLeaf]) -> Iterator[tuple[int, bytes]]:
    return ((leaf.seq, leaf.data) for leaf in leaves)


def _seen(tx: Tx, key: AgentKey, epoch: int) -> list[bytes]:
    """Checkpoints of this log that contradicted what is stored."""
    notes = [e.data for e in tx.logs.evidence(key) if e.epoch == epoch and e.kind != "leaf"]
    return notes[:_MAX_SEEN]
