"""The coordinator's own chained logs, and the operators' certificates, in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Table, insert, select, update

from exclave_coordinator.ports import ChainState, OperatorCertificate, StoredLeaf
from exclave_coordinator.storage.rows import hashes_of, leaves_of, peaks_of, span_of
from exclave_coordinator.storage.tables import (
    operator_certificates,
    operator_leaves,
    operator_state,
)


class SqlChain:
    """`ports.Chain` over one table of leaves and one row of state."""

    def __init__(self, connection: Connection, leaves: Table, state: Table) -> None:
        self._db = connection
        self._leaves = leaves
        self._state = state

    def state(self) -> ChainState:
        """Where the chain stands."""
        row = self._db.execute(select(self._state).where(self._state.c.id == 1)).first()
        return ChainState() if row is None else ChainState(row.size, row.head, peaks_of(row.peaks))

    def append(self, leaf: StoredLeaf, state: ChainState) -> None:
        """The next leaf, and where the chain stands with it."""
        self._db.execute(
            insert(self._leaves),
            {"seq": leaf.seq, "hash": leaf.hash, "time_ns": leaf.time_ns, "data": leaf.data},
        )
        values = {"size": state.size, "head": state.head, "peaks": b"".join(state.peaks)}
        changed = self._db.execute(
            update(self._state).where(self._state.c.id == 1).values(**values)
        )
        if not changed.rowcount:
            self._db.execute(insert(self._state), {"id": 1, **values})

    def hashes(self, begin: int, end: int) -> Sequence[bytes]:
        """Leaf hashes of [begin, end), in order."""
        return hashes_of(self._db, self._leaves, begin, end)

    def leaves(self, begin: int, end: int) -> Iterator[StoredLeaf]:
        """Leaves of [begin, end), in order, a page at a time."""
        return leaves_of(self._db, self._leaves, begin, end)

    def span(self, size: int, from_ns: int, to_ns: int) -> tuple[int, int]:
        """See `ports.Logs.span`."""
        return span_of(self._db, self._leaves, size, from_ns, to_ns)


class SqlOperators(SqlChain):
    """`ports.Operators`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, operator_leaves, operator_state)

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
