"""Renewal at half-life, recovery after expiry, and what ends it; on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity import Identity, IdentityStore, Renewer, join
from exclave_testing.clock import FakeClock, SeededRng
from exclave_testing.desk import Ca, Desk
from exclave_testing.tuf_repo import AGENT, DOMAIN, TENANT

DAY = 86_400


@dataclass
class World:
    clock: FakeClock
    desk: Desk
    store: IdentityStore
    renewer: Renewer
    heard: list[Identity]
    task: asyncio.Task[None]

    async def days(self, days: float) -> None:
        await self.clock.until_sleepers(1)
        await self.clock.advance(days * DAY)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = FakeClock()
    desk = Desk(lambda: clock.now_ns() / 1e9)
    await join(tmp_path, desk.token, desk)
    desk.calls.clear()
    store = IdentityStore(tmp_path)
    heard: list[Identity] = []
    store.subscribe(heard.append)
    renewer = Renewer(store, desk, clock=clock, rng=SeededRng())
    task = asyncio.create_task(renewer.run())
    yield World(clock, desk, store, renewer, heard, task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_before_two_fifths_of_its_life(world: World) -> None:
    await world.days(0.39)
    assert world.desk.calls == []


async def test_renewed_by_three_fifths_of_its_life(world: World) -> None:
    before = world.store.current
    await world.days(0.61)
    assert world.desk.calls == ["renew"]
    after = world.store.current
    assert world.heard == [after]
    assert after.not_after > before.not_after
    assert after.key_pem == before.key_pem
    assert IdentityStore(before.folder.parent).current.cert_pem == after.cert_pem
    await world.days(0.61)
    assert world.desk.calls == ["renew", "renew"]


async def test_moments_differ_between_agents(tmp_path: Path) -> None:
    moments = set()
    for seed in range(5):
        clock = FakeClock()
        desk = Desk(lambda clock=clock: clock.now_ns() / 1e9)
        home = tmp_path / str(seed)
        await join(home, desk.token, desk)
        renewer = Renewer(IdentityStore(home), desk, clock=clock, rng=SeededRng(seed))
        moments.add(round(renewer._due()))
    assert len(moments) == 5


async def test_retries_while_the_coordinator_is_away(world: World) -> None:
    world.desk.failure = LinkError("away", code="unreachable")
    await world.days(0.7)
    tries = len(world.desk.calls)
    assert tries > 5
    assert world.renewer.last_error is world.desk.failure
    world.desk.failure = None
    await world.days(0.01)
    assert world.renewer.last_error is None
    assert len(world.heard) == 1


async def test_backoff_never_waits_longer_than_five_minutes(world: World) -> None:
    world.desk.failure = LinkError("away", code="unreachable")
    await world.days(0.61)
    world.desk.calls.clear()
    await world.clock.advance(3600)
    assert 12 <= len(world.desk.calls) <= 80


async def test_expired_while_away_recovers_with_proof(world: World) -> None:
    world.desk.failure = LinkError("away", code="unreachable")
    await world.days(1.5)
    world.desk.failure = None
    world.desk.calls.clear()
    await world.days(0.01)
    assert world.desk.calls == ["recover"]
    assert world.store.current.not_after > world.clock.now_ns() / 1e9


async def test_proof_of_another_key_recovers_nothing(world: World, tmp_path: Path) -> None:
    other = Desk(world.desk.now)
    stranger = await join(tmp_path / "other", other.token, other)
    world.store.current.key_path.write_bytes(stranger.key_pem)
    world.store.current.cert_path.write_bytes(stranger.cert_pem)
    thief = Renewer(
        IdentityStore(world.store.current.folder.parent),
        world.desk,
        clock=world.clock,
        rng=SeededRng(),
    )
    thief.renew_now()
    with pytest.raises(IdentityError) as caught:
        await thief.renew_once()
    assert caught.value.code == "recovery_refused"


async def test_told_that_it_expired_recovers_at_once(world: World) -> None:
    await world.clock.until_sleepers(1)
    world.renewer.renew_now()
    async with asyncio.timeout(10):
        while not world.heard:
            await asyncio.sleep(0.001)
    assert world.desk.calls == ["recover"]
    assert world.clock.now_ns() == FakeClock().now_ns()


async def test_a_broken_handshake_near_the_end_recovers(world: World) -> None:
    async def broken(csr: bytes) -> object:
        raise LinkError("handshake failed", code="unreachable")

    world.desk.renew = broken  # type: ignore[method-assign, assignment]  # this call only
    await world.days(0.89)
    assert world.desk.calls == []
    await world.days(0.05)
    assert world.desk.calls == ["recover"]


async def test_a_ban_ends_renewal(world: World) -> None:
    world.desk.banned = True
    await world.days(0.61)
    async with asyncio.timeout(10):
        await world.task
    assert world.renewer.last_error is not None
    assert world.renewer.last_error.code == "banned"
    assert world.heard == []


async def test_eviction_goes_on_asking(world: World) -> None:
    world.desk.failure = IdentityError("evicted", code="evicted")
    await world.days(0.61)
    assert not world.task.done()
    world.desk.failure = None
    await world.days(0.01)
    assert len(world.heard) == 1


async def test_certificate_of_another_ca_is_not_taken(world: World) -> None:
    """Whoever holds the online keys cannot move the agent to another authority."""
    before = world.store.current.cert_pem
    stranger = Ca(world.desk.now, "stranger")
    spiffe = f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{AGENT}"
    world.desk.ca, genuine = stranger, world.desk.ca
    await world.days(0.61)
    assert world.renewer.last_error is not None
    assert world.renewer.last_error.code == "bad_certificate"
    assert world.store.current.cert_pem == before
    assert world.heard == []
    assert spiffe == str(world.store.current.spiffe)
    world.desk.ca = genuine
    await world.days(0.01)
    assert len(world.heard) == 1


async def test_a_suspended_machine_renews_soon_after_waking(world: World) -> None:
    await world.clock.until_sleepers(1)
    world.clock.step(0.7 * DAY)  # the wall clock jumped, the monotonic clock stood still
    await world.clock.advance(301)
    assert world.desk.calls == ["renew"]
