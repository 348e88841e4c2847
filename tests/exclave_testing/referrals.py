"""Referrals in a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exclave_agent.errors import StorageError
from exclave_agent.ports import Referral


class FakeReferrals:
    """A `ports.Referrals`. Set `failure` to have every one refused."""

    def __init__(self) -> None:
        self.rows: list[Referral] = []
        self.failure: StorageError | None = None

    async def add(self, referral: Referral) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if all(row.decision != referral.decision for row in self.rows):
            self.rows.append(referral)

    async def count(self) -> int:
        await asyncio.sleep(0)
        return len(self.rows)

    async def waiting(self, limit: int) -> Sequence[Referral]:
        await asyncio.sleep(0)
        return self.rows[:limit]

    async def of(self, decision: str) -> Referral | None:
        await asyncio.sleep(0)
        return next((row for row in self.rows if row.decision == decision), None)

    async def overdue(self, now_ns: int, limit: int) -> Sequence[Referral]:
        await asyncio.sleep(0)
        due = [row for row in self.rows if 0 < row.expires_ns <= now_ns]
        return sorted(due, key=lambda row: row.expires_ns)[:limit]

    async def remove(self, decision: str) -> None:
        await asyncio.sleep(0)
        self.rows = [row for row in self.rows if row.decision != decision]
