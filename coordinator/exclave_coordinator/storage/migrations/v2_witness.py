"""Schema 2: the witness's own log, outside logs, and outside witnesses' cosignatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String

if TYPE_CHECKING:
    from alembic.operations import Operations


def add_witness_tables(op: Operations) -> None:
    """Four tables more; none that was there is touched."""
    op.create_table(
        "cosigned_leaves",
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("hash", LargeBinary, nullable=False),
        Column("time_ns", BigInteger, nullable=False),
        Column("data", LargeBinary, nullable=False),
    )
    op.create_table(
        "cosigned_state",
        Column("id", Integer, primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("head", LargeBinary, nullable=False),
        Column("peaks", LargeBinary, nullable=False),
    )
    op.create_table(
        "outside_logs",
        Column("origin", String(255), primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("root", LargeBinary, nullable=False),
        Column("checkpoint", LargeBinary, nullable=False),
        Column("cosigned_at", BigInteger, nullable=False),
        Column("fork_cosigned", LargeBinary, nullable=True),
        Column("fork_refused", LargeBinary, nullable=True),
    )
    op.create_table(
        "outside_cosignatures",
        Column("log", String(255), primary_key=True),
        Column("witness", String(320), primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("peaks", LargeBinary, nullable=False),
        Column("cosigned_at", BigInteger, nullable=False),
        Column("note", LargeBinary, nullable=False),
    )
