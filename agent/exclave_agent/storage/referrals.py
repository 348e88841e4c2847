"""Referrals in state.db: the decisions that wait for a person."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence

from exclave_agent.ports import Referral

from .pool import ReadPool
from .sqlite import Writer
from .vault import VaultReader


class SqliteReferrals:
    """A `ports.Referrals` in state.db."""

    def __init__(self, writer: Writer, pool: ReadPool) -> None:
        self._writer = writer
        self._pool = pool
        self.known = 0
        """How many wait, as of the last `count` and what was added since: for a glance."""

    async def add(self, referral: Referral) -> None:
        def insert(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(
                "INSERT INTO referral (decision, route, created_ns) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (referral.decision, referral.route, referral.created_ns),
            )
            if cursor.rowcount and (referral.approvals or referral.guard):
                connection.execute(
                    "INSERT INTO referral_reason (decision, approvals, guard) VALUES (?, ?, ?)",
                    (referral.decision, ",".join(referral.approvals), referral.guard),
                )
            return cursor.rowcount

        self.known += await self._writer.run(insert)

    async def count(self) -> int:
        def find(connection: sqlite3.Connection, _: VaultReader | None) -> int:
            (found,) = connection.execute("SELECT count(*) FROM referral").fetchone()
            return int(found)

        self.known = await asyncio.wrap_future(self._pool.submit(find))
        return self.known

    async def waiting(self, limit: int) -> Sequence[Referral]:
        def find(connection: sqlite3.Connection, _: VaultReader | None) -> list[Referral]:
            rows = connection.execute(
                "SELECT r.decision, r.route, r.created_ns, "
                "coalesce(w.approvals, ''), coalesce(w.guard, '') "
                "FROM referral AS r LEFT JOIN referral_reason AS w ON w.decision = r.decision "
                "ORDER BY r.id LIMIT ?",
                (limit,),
            )
            return [
                Referral(decision, route, created, tuple(filter(None, names.split(","))), guard)
                for decision, route, created, names, guard in rows
            ]

        return await asyncio.wrap_future(self._pool.submit(find))
