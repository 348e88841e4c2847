"""Questions that every table of leaves is asked: agents' logs and the coordinator's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, func, select

from exclave_coordinator.ports import StoredLeaf

_PAGE = 512
"""Leaves read at once while iterating (at most 32 MiB)."""


def _within(table: Table, begin: int, end: int, *which: Any) -> Any:
    return and_(table.c.seq >= begin, table.c.seq < end, *which)


def hashes_of(db: Connection, table: Table, begin: int, end: int, *which: Any) -> Sequence[bytes]:
    """Leaf hashes of [begin, end), in order."""
    statement = select(table.c.hash).where(_within(table, begin, end, *which)).order_by(table.c.seq)
    return list(db.execute(statement).scalars())


def leaves_of(
    db: Connection, table: Table, begin: int, end: int, *which: Any
) -> Iterator[StoredLeaf]:
    """Leaves of [begin, end), in order, a page at a time."""
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


def span_of(
    db: Connection, table: Table, size: int, from_ns: int, to_ns: int, *which: Any
) -> tuple[int, int]:
    """See `ports.Logs.span`."""
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


def peaks_of(joined: bytes) -> tuple[bytes, ...]:
    """A frontier's peaks from the column that holds them one after the other."""
    return tuple(joined[i : i + 32] for i in range(0, len(joined), 32))
