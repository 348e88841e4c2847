"""Schema 3: the terms in which agents' logs are written, and the epochs that operators opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
)

if TYPE_CHECKING:
    from alembic.operations import Operations


def add_terms(op: Operations) -> None:
    """Two tables more; none that was there is touched."""
    op.create_table(
        "terms",
        Column("log_id", Integer, ForeignKey("logs.id"), primary_key=True),
        Column("term", BigInteger, nullable=False),
        Column("public", LargeBinary, nullable=False),
        Column("commitment", LargeBinary, nullable=False),
        Column("note", LargeBinary, nullable=False),
        Column("begun", BigInteger, nullable=False),
    )
    op.create_table(
        "epochs_opened",
        Column("tenant", String(63), primary_key=True),
        Column("agent", String(63), primary_key=True),
        Column("epoch", BigInteger, nullable=False),
        Column("at", BigInteger, nullable=False),
        ForeignKeyConstraint(["tenant", "agent"], ["agents.tenant", "agents.name"]),
    )
