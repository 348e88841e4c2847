"""What every Referrals promises, the fake included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_agent.errors import StorageError
from exclave_agent.ports import Referral, Referrals
from exclave_testing.homes import Home
from exclave_testing.referrals import FakeReferrals

FIRST = Referral("d" * 32, "claims", 1_900_000_000_000_000_000)
SECOND = Referral("e" * 32, "triage", 1_900_000_000_000_000_001)
HELD = Referral("f" * 32, "", 1_900_000_000_000_000_002, approvals=("lead", "four-eyes"))
ESCALATED = Referral("0" * 32, "claims", 1_900_000_000_000_000_003, guard="grounded")


@pytest.fixture(params=["fake", "real"])
async def referrals(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Referrals]:
    if request.param == "fake":
        yield FakeReferrals()
        return
    async with Home(tmp_path) as home:
        yield home.storage.referrals


async def test_the_oldest_come_first_and_one_decision_waits_once(referrals: Referrals) -> None:
    assert await referrals.count() == 0
    for each in (FIRST, SECOND, FIRST):
        await referrals.add(each)
    assert await referrals.count() == 2
    assert list(await referrals.waiting(10)) == [FIRST, SECOND]
    assert list(await referrals.waiting(1)) == [FIRST]


async def test_why_they_wait_is_kept(referrals: Referrals) -> None:
    for each in (FIRST, HELD, ESCALATED, HELD):
        await referrals.add(each)
    assert list(await referrals.waiting(10)) == [FIRST, HELD, ESCALATED]


async def test_they_survive_a_restart(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.storage.referrals.add(FIRST)
        await home.storage.referrals.add(FIRST)
        assert home.storage.referrals.known == 1
    async with Home(tmp_path) as home:
        assert home.storage.referrals.known == 0  # nobody has asked yet
        assert await home.storage.referrals.count() == home.storage.referrals.known == 1
        assert list(await home.storage.referrals.waiting(10)) == [FIRST]


async def test_a_store_that_is_closing_refuses(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        referrals = home.storage.referrals
    with pytest.raises(StorageError):
        await referrals.add(FIRST)
