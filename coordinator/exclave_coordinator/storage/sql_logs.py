"""Agents' leaves, checkpoints and evidence, and the operators' chain, in SQL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, and_, func, insert, select, update

from exclave_coordinator.ports import (
    AgentKey,
    ChainState,
    Evidence,
    Log,
    OperatorCertificate,
    StoredLeaf,
)
from exclave_coordinator.storage.tables import (
    evidence,
    leaves,
    logs,
    operator_certificates,
    operator_leaves,
    operator_state,
)

_PAGE = 512
"""Leaves read at once while iterating (at most 32 MiB)."""


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
        return _hashes(self._db, leaves, begin, end, leaves.c.log_id == log_id)

    def leaf(self, log_id: int, seq: int) -> StoredLeaf | None:
        """One leaf, or None."""
        row = self._db.execute(
            select(leaves).where(and_(leaves.c.log_id == log_id, leaves.c.seq == seq))
        ).first()
        return None if row is None else StoredLeaf(row.seq, row.hash, row.time_ns, row.data)

    def leaves(self, log_id: int, begin: int, end: int) -> Iterator[StoredLeaf]:
        """Leaves of [begin, end), in order, a page at a time."""
        return _leaves(self._db, leaves, begin, end, leaves.c.log_id == log_id)

    def span(self, log_id: int, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """See `ports.Logs.span`."""
        return _span(self._db, leaves, size, from_ns, to_ns, leaves.c.log_id == log_id)

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


class SqlOperators:
    """`ports.Operators`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def state(self) -> ChainState:
        """Where the chain stands."""
        row = self._db.execute(select(operator_state).where(operator_state.c.id == 1)).first()
        return ChainState() if row is None else ChainState(row.size, row.head, _peaks(row.peaks))

    def append(self, leaf: StoredLeaf, state: ChainState) -> None:
        """The next leaf, and where the chain stands with it."""
        self._db.execute(
            insert(operator_leaves),
            {"seq": leaf.seq, "hash": leaf.hash, "time_ns": leaf.time_ns, "data": leaf.data},
        )
        values = {"size": state.size, "head": state.head, "peaks": b"".join(state.peaks)}
        changed = self._db.execute(
            update(operator_state).where(operator_state.c.id == 1).values(**values)
        )
        if not changed.rowcount:
            self._db.execute(insert(operator_state), {"id": 1, **values})

    def hashes(self, begin: int, end: int) -> Sequence[bytes]:
        """Leaf hashes of [begin, end), in order."""
        return _hashes(self._db, operator_leaves, begin, end)

    def leaves(self, begin: int, end: int) -> Iterator[StoredLeaf]:
        """Leaves of [begin, end), in order, a page at a time."""
        return _leaves(self._db, operator_leaves, begin, end)

    def span(self, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """See `ports.Logs.span`."""
        return _span(self._db, operator_leaves, size, from_ns, to_ns)

    def insert_certificate(
        self, name: str, role: str, serial: str, not_after: int, issued: int
    ) -> None:
        """Remember which certificates are out."""
        self._db.execute(
            insert(operator_certificates),
            {
                "serial": serial,
                "name": name,
                "role": role,
                "issued": issued,
                "not_after": not_after,
            },
        )

    def certificates(self) -> Sequence[OperatorCertificate]:
        """Every one that was issued, the last to end first."""
        table = operator_certificates
        statement = select(table).order_by(table.c.not_after.desc(), table.c.serial)
        return [
            OperatorCertificate(r.name, r.role, r.serial, r.issued, r.not_after)
            for r in self._db.execute(statement)
        ]


def _within(table: Table, begin: int, end: int, *which: Any) -> Any:
    return and_(table.c.seq >= begin, table.c.seq < end, *which)


def _hashes(db: Connection, table: Table, begin: int, end: int, *which: Any) -> Sequence[bytes]:
    statement = select(table.c.hash).where(_within(table, begin, end, *which)).order_by(table.c.seq)
    return list(db.execute(statement).scalars())


def _leaves(
    db: Connection, table: Table, begin: int, end: int, *which: Any
) -> Iterator[StoredLeaf]:
    while begin < end:
        stop = min(end, begin + _PAGE)
        statement = (
            select(table.c.seq, table.c.hash, table.c.time_ns, table.c.data)
            .where(_within(table, begin, stop, *which))
            .order_by(table.c.seq)
        )
        for row in db.execute(statement).all():
            yield StoredLeaf(row.seq, row.hash, row.time_ns, row.data)
        begin = stop


def _span(
    db: Connection, table: Table, size: int, from_ns: int, to_ns: int, *which: Any
) -> tuple[int, int]:
    low, high = db.execute(
        select(func.min(table.c.seq), func.max(table.c.seq)).where(
            _within(table, 0, size, table.c.time_ns >= from_ns, table.c.time_ns < to_ns, *which)
        )
    ).one()
    if low is not None:
        return low, high + 1
    earlier = db.execute(
        select(func.count()).where(_within(table, 0, size, table.c.time_ns < from_ns, *which))
    ).scalar_one()
    return earlier, earlier


def _peaks(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[i : i + 32] for i in range(0, len(joined), 32))


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
        peaks=_peaks(row.peaks),
        checkpoint=row.checkpoint,
    )
