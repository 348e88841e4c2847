"""Referrals in state.db: the decisions that wait for a person."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict

from exclave_agent.ports import Referral, Terms

from .pool import ReadPool
from .sqlite import Writer
from .vault import VaultReader

_SELECT = (
    "SELECT r.decision, r.route, r.created_ns, coalesce(w.approvals, ''), coalesce(w.guard, ''), "
    "coalesce(t.terms, '[]'), coalesce(t.expires_ns, 0) FROM referral AS r "
    "LEFT JOIN referral_reason AS w ON w.decision = r.decision "
    "LEFT JOIN referral_terms AS t ON t.decision = r.decision "
)


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
            if cursor.rowcount and referral.expires_ns:
                connection.execute(
                    "INSERT INTO referral_terms (decision, terms, expires_ns) VALUES (?, ?, ?)",
                    (
                        referral.decision,
                        json.dumps([asdict(each) for each in referral.terms]),
                        referral.expires_ns,
                    ),
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
        return await self._read(_SELECT + "ORDER BY r.id LIMIT ?", limit)

    async def of(self, decision: str) -> Referral | None:
        found = await self._read(_SELECT + "WHERE r.decision = ?", decision)
        return found[0] if found else None

    async def overdue(self, now_ns: int, limit: int) -> Sequence[Referral]:
        due = "WHERE t.expires_ns <= ? ORDER BY t.expires_ns LIMIT ?"
        return await self._read(_SELECT + due, now_ns, limit)

    async def remove(self, decision: str) -> None:
        def delete(connection: sqlite3.Connection) -> int:
            execute, whose = connection.execute, (decision,)
            execute("DELETE FROM referral_reason WHERE decision = ?", whose)
            execute("DELETE FROM referral_terms WHERE decision = ?", whose)
            return execute("DELETE FROM referral WHERE decision = ?", whose).rowcount

        self.known -= await self._writer.run(delete)

    async def _read(self, sql: str, *values: object) -> list[Referral]:
        def find(connection: sqlite3.Connection, _: VaultReader | None) -> list[Referral]:
            return [_referral(*row) for row in connection.execute(sql, values)]

        return await asyncio.wrap_future(self._pool.submit(find))


def _referral(
    decision: str, route: str, created: int, names: str, guard: str, terms: str, expires: int
) -> Referral:
    return Referral(
        decision,
        route,
        created,
        tuple(filter(None, names.split(","))),
        guard,
        tuple(Terms(**each | {"roles": tuple(each["roles"])}) for each in json.loads(terms)),
        expires,
    )
