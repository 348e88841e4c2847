"""Agents' leaves, checkpoints and evidence in SQL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from exclave_coordinator.ports import AgentKey, Evidence, Log, StoredLeaf
from exclave_coordinator.storage.rows import hashes_of, leaves_of, peaks_of, span_of
from exclave_coordinator.storage.tables import evidence, leaves, logs


class SqlLogs:
    """`ports.Logs`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, key: AgentKey, epoch: int) -> Log | None:
        """One epoch's log, or None."""
        row = self._db.execute(
            select(logs).where(
                and_(logs.c.tenant == key.tenant, logs.c.agent == key.name, logs.c.epoch == epoch)
            )
        ).first()
        return None if row is None else _log(row)

    def of_tenant(self, tenant: str) -> Sequence[Log]:
        """By agent and epoch."""
        statement = select(logs).where(logs.c.tenant == tenant).order_by(logs.c.agent, logs.c.epoch)
        return [_log(row) for row in self._db.execute(statement)]

    def sizes(self) -> dict[AgentKey, tuple[int, int]]:
        """Leaves (stored, witnessed) of each agent, all epochs together."""
        statement = select(
            logs.c.tenant, logs.c.agent, func.sum(logs.c.size), func.sum(logs.c.witnessed_size)
        ).group_by(logs.c.tenant, logs.c.agent)
        return {AgentKey(r[0], r[1]): (r[2], r[3]) for r in self._db.execute(statement)}

    def create(self, key: AgentKey, epoch: int, audit_key: bytes) -> Log:
        """An empty log."""
        empty = Log(0, key, epoch, audit_key)
        made = self._db.execute(
            insert(logs),
            {
                "tenant": key.tenant,
                "agent": key.name,
                "epoch": epoch,
                "audit_key": audit_key,
                "size": 0,
                "head": empty.head,
                "witnessed_size": 0,
                "witnessed_at": 0,
                "peaks": b"",
                "checkpoint": b"",
            },
        )
        primary = made.inserted_primary_key
        assert primary is not None  # an INSERT of one row always has one
        return Log(primary[0], key, epoch, audit_key)

    def append(self, log_id: int, items: Sequence[StoredLeaf]) -> None:
        """Leaves that continue the log; also moves its size and head."""
        if not items:
            return
        self._db.execute(
            insert(leaves),
            [
                {
                    "log_id": log_id,
                    "seq": leaf.seq,
                    "hash": leaf.hash,
                    "time_ns": leaf.time_ns,
                    "data": leaf.data,
                }
                for leaf in items
            ],
        )
        self._db.execute(
            update(logs)
            .where(logs.c.id == log_id)
            .values(size=items[-1].seq + 1, head=items[-1].hash)
        )

    def hashes(self, log_id: int, begin: int, end: int) -> Sequence[bytes]:
        """Leaf hashes of [begin, end), in order."""
        return hashes_of(self._db, leaves, begin, end, leaves.c.log_id == log_id)

    def leaf(self, log_id: int, seq: int) -> StoredLeaf | None:
        """One leaf, or None."""
        row = self._db.execute(
            select(leaves).where(and_(leaves.c.log_id == log_id, leaves.c.seq == seq))
        ).first()
        return None if row is None else StoredLeaf(row.seq, row.hash, row.time_ns, row.data)

    def leaves(self, log_id: int, begin: int, end: int) -> Iterator[StoredLeaf]:
        """Leaves of [begin, end), in order, a page at a time."""
        return leaves_of(self._db, leaves, begin, end, leaves.c.log_id == log_id)

    def span(self, log_id: int, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """See `ports.Logs.span`."""
        return span_of(self._db, leaves, size, from_ns, to_ns, leaves.c.log_id == log_id)

    def set_witnessed(self, log: Log) -> None:
        """The checkpoint that is about to be cosigned."""
        self._db.execute(
            update(logs)
            .where(logs.c.id == log.id)
            .values(
                witnessed_size=log.witnessed_size,
                witnessed_at=log.witnessed_at,
                peaks=b"".join(log.peaks),
                checkpoint=log.checkpoint,
            )
        )

    def insert_evidence(self, item: Evidence) -> None:
        """Keep a contradiction; the same one again changes nothing."""
        digest = hashlib.sha256(item.data).digest()
        known = self._db.execute(
            select(evidence.c.id).where(
                and_(
                    evidence.c.tenant == item.key.tenant,
                    evidence.c.agent == item.key.name,
                    evidence.c.epoch == item.epoch,
                    evidence.c.kind == item.kind,
                    evidence.c.digest == digest,
                )
            )
        ).first()
        if known is None:
            self._db.execute(
                insert(evidence),
                {
                    "tenant": item.key.tenant,
                    "agent": item.key.name,
                    "epoch": item.epoch,
                    "seq": item.seq,
                    "kind": item.kind,
                    "digest": digest,
                    "at": item.at,
                    "detail": item.detail,
                    "data": item.data,
                },
            )

    def evidence(self, key: AgentKey) -> Sequence[Evidence]:
        """Oldest first."""
        statement = (
            select(evidence)
            .where(and_(evidence.c.tenant == key.tenant, evidence.c.agent == key.name))
            .order_by(evidence.c.id)
        )
        return [
            Evidence(key, r.epoch, r.seq, r.kind, r.at, r.detail, r.data)
            for r in self._db.execute(statement)
        ]


def _log(row: Row[Any]) -> Log:
    return Log(
        id=row.id,
        key=AgentKey(row.tenant, row.agent),
        epoch=row.epoch,
        audit_key=row.audit_key,
        size=row.size,
        head=row.head,
        witnessed_size=row.witnessed_size,
        witnessed_at=row.witnessed_at,
        peaks=peaks_of(row.peaks),
        checkpoint=row.checkpoint,
    )
