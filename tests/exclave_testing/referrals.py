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
