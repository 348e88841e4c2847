"""The budgets' durable sums: added to in the transaction of the leaf that an amount rides on."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from exclave_agent.ports import LedgerEntry

from .pool import ReadPool
from .sqlite import Writer
from .vault import VaultReader

_MOST = 1 << 62
# An amount is at most 2**53: a sum that has come this far stays, rather than break the
# transaction of a record.
_ADD = (
    "INSERT INTO spent (account, period, tokens, money) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (account, period) DO UPDATE SET "
    "tokens = CASE WHEN abs(tokens) < 1 << 62 THEN tokens + excluded.tokens ELSE tokens END, "
    "money = CASE WHEN abs(money) < 1 << 62 THEN money + excluded.money ELSE money END"
)


def add(connection: sqlite3.Connection, entries: Iterable[LedgerEntry]) -> None:
    """Add amounts in the caller's transaction. Raises: sqlite3.Error."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in entries:
        tokens, money = sums.get((entry.account, entry.period), (0, 0))
        sums[entry.account, entry.period] = tokens + entry.tokens, money + entry.money_micro
    if sums:
        rows = [(*key, _held(tokens), _held(money)) for key, (tokens, money) in sums.items()]
        connection.executemany(_ADD, rows)


def _held(amount: int) -> int:
    """What a column holds of it: many leaves of one transaction may add up to more."""
    return max(-_MOST, min(amount, _MOST))


class SqliteLedger:
    """A `ports.Ledger` in state.db."""

    def __init__(self, writer: Writer, pool: ReadPool) -> None:
        self._writer = writer
        self._pool = pool

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        def find(
            connection: sqlite3.Connection, _: VaultReader | None
        ) -> dict[tuple[str, str], tuple[int, int]]:
            rows = connection.execute("SELECT account, period, tokens, money FROM spent")
            return {(account, period): (tokens, money) for account, period, tokens, money in rows}

        return await asyncio.wrap_future(self._pool.submit(find))

    async def forget(self, before: Sequence[str]) -> None:
        def drop(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "DELETE FROM spent WHERE period = ?", [(period,) for period in before]
            )

        await self._writer.run(drop)
