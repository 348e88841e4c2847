"""Outside logs that we cosign and outside witnesses' cosignatures, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, and_, insert, select, update

from exclave_coordinator.storage.rows import peaks_of
from exclave_coordinator.storage.tables import outside_cosignatures, outside_logs
from exclave_coordinator.witness_ports import Cosignature, OutsideLog


class SqlWitnessing:
    """`witness_ports.Witnessing`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def log(self, origin: str) -> OutsideLog | None:
        """What was cosigned of an outside log, or None."""
        row = self._db.execute(select(outside_logs).where(outside_logs.c.origin == origin)).first()
        return None if row is None else _log(row)

    def logs(self) -> Sequence[OutsideLog]:
        """By origin."""
        statement = select(outside_logs).order_by(outside_logs.c.origin)
        return [_log(row) for row in self._db.execute(statement)]

    def put_log(self, log: OutsideLog) -> None:
        """Insert, or replace that of the same origin."""
        cosigned, refused = log.fork or (None, None)
        values = {
            "size": log.size,
            "root": log.root,
            "checkpoint": log.checkpoint,
            "cosigned_at": log.cosigned_at,
            "fork_cosigned": cosigned,
            "fork_refused": refused,
        }
        self._put(outside_logs, {"origin": log.origin}, values)

    def cosignature(self, log: str, witness: str) -> Cosignature | None:
        """The newest by a witness on a log, or None."""
        table = outside_cosignatures
        row = self._db.execute(
            select(table).where(and_(table.c.log == log, table.c.witness == witness))
        ).first()
        return None if row is None else _cosignature(row)

    def cosignatures(self) -> Sequence[Cosignature]:
        """By log and witness."""
        table = outside_cosignatures
        statement = select(table).order_by(table.c.log, table.c.witness)
        return [_cosignature(row) for row in self._db.execute(statement)]

    def put_cosignature(self, cosignature: Cosignature) -> None:
        """Insert, or replace that of the same log and witness."""
        values = {
            "size": cosignature.size,
            "peaks": b"".join(cosignature.peaks),
            "cosigned_at": cosignature.cosigned_at,
            "note": cosignature.note,
        }
        key = {"log": cosignature.log, "witness": cosignature.witness}
        self._put(outside_cosignatures, key, values)

    def _put(self, table: Table, key: dict[str, str], values: dict[str, Any]) -> None:
        where = and_(*(table.c[name] == value for name, value in key.items()))
        if not self._db.execute(update(table).where(where).values(**values)).rowcount:
            self._db.execute(insert(table), {**key, **values})


def _log(row: Row[Any]) -> OutsideLog:
    fork = None if row.fork_refused is None else (row.fork_cosigned, row.fork_refused)
    return OutsideLog(row.origin, row.size, row.root, row.checkpoint, row.cosigned_at, fork)


def _cosignature(row: Row[Any]) -> Cosignature:
    peaks = peaks_of(row.peaks)
    return Cosignature(row.log, row.witness, row.size, peaks, row.cosigned_at, row.note)
