"""Terms of agents' logs, and the epochs that operators opened, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, insert, select, update

from exclave_coordinator.ports import AgentKey
from exclave_coordinator.storage.tables import epochs_opened, logs, terms
from exclave_coordinator.term_ports import Opening, Term


class SqlTerms:
    """`term_ports.Terms`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, log_id: int) -> Term | None:
        """The term that holds, or None."""
        row = self._db.execute(select(terms).where(terms.c.log_id == log_id)).first()
        if row is None:
            return None
        return Term(row.term, row.public, row.commitment, row.note, row.begun)

    def put(self, log_id: int, term: Term) -> None:
        """Insert, or replace the one before."""
        values = {
            "term": term.number,
            "public": term.public,
            "commitment": term.commitment,
            "note": term.note,
            "begun": term.begun,
        }
        if not self._db.execute(
            update(terms).where(terms.c.log_id == log_id).values(**values)
        ).rowcount:
            self._db.execute(insert(terms), {"log_id": log_id, **values})

    def opening(self, key: AgentKey) -> Opening | None:
        """The newest epoch that was opened, or None."""
        table = epochs_opened
        row = self._db.execute(
            select(table).where(and_(table.c.tenant == key.tenant, table.c.agent == key.name))
        ).first()
        return None if row is None else Opening(row.epoch, row.at)

    def open(self, key: AgentKey, opening: Opening) -> None:
        """Insert, or replace the one before."""
        table = epochs_opened
        where = and_(table.c.tenant == key.tenant, table.c.agent == key.name)
        values = {"epoch": opening.epoch, "at": opening.at}
        if not self._db.execute(update(table).where(where).values(**values)).rowcount:
            self._db.execute(insert(table), {"tenant": key.tenant, "agent": key.name, **values})

    def epochs(self, key: AgentKey) -> Sequence[int]:
        """Those that have a log, ascending."""
        statement = (
            select(logs.c.epoch)
            .where(and_(logs.c.tenant == key.tenant, logs.c.agent == key.name))
            .order_by(logs.c.epoch)
        )
        return [row[0] for row in self._db.execute(statement)]
