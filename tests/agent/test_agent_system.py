"""The system's clock, ids and randomness, and the guard against a clock that steps back."""

from __future__ import annotations

import pytest

from exclave_agent.system import SystemClock, SystemIds, SystemRng, TrustedTime
from exclave_testing.clock import START_NS, FakeClock
from exclave_testing.storage import FakeStateStore


def test_ids_are_unique_and_sort_by_birth() -> None:
    ids = SystemIds()
    made = [ids.new() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in made)
    assert [i[:12] for i in made] == sorted(i[:12] for i in made)
    assert {i[12] for i in made} == {"7"}
    assert {i[16] for i in made} <= set("89ab")


def test_randomness_has_the_size_asked_for() -> None:
    rng = SystemRng()
    assert len(rng.token(32)) == 32
    assert rng.token(16) != rng.token(16)
    assert all(2.0 <= rng.uniform(2.0, 3.0) <= 3.0 for _ in range(100))


async def test_the_real_clock_moves() -> None:
    clock = SystemClock()
    before, wall = clock.monotonic(), clock.now_ns()
    await clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.now_ns() > wall - 10**9


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_time_follows_the_wall_clock_forward(clock: FakeClock) -> None:
    trusted = TrustedTime(clock, FakeStateStore())
    assert await trusted.load() is None
    assert trusted.now_ns() == START_NS
    clock.step(86_400)
    assert trusted.now_ns() == START_NS + 86_400 * 10**9


async def test_a_step_back_is_reported_and_does_not_turn_time_back(clock: FakeClock) -> None:
    trusted = TrustedTime(clock, FakeStateStore())
    trusted.now_ns()
    clock.step(-3600)
    stepped = trusted.check()
    assert stepped is not None
    assert round(stepped.seconds) == 3600
    assert trusted.now_ns() == START_NS
    await clock.advance(10)
    assert trusted.now_ns() == START_NS + 10 * 10**9  # it runs on, at the monotonic pace
    clock.step(7200)
    assert trusted.check() is None
    assert trusted.now_ns() == clock.now_ns()


async def test_small_corrections_are_no_step(clock: FakeClock) -> None:
    trusted = TrustedTime(clock, FakeStateStore())
    trusted.now_ns()
    clock.step(-4)
    assert trusted.check() is None
    assert trusted.now_ns() == START_NS


async def test_a_step_back_while_the_agent_was_away_is_seen_at_boot(clock: FakeClock) -> None:
    store = FakeStateStore()
    first = TrustedTime(clock, store)
    await first.load()
    await first.persist()
    clock.step(-86_400)
    second = TrustedTime(clock, store)
    stepped = await second.load()
    assert stepped is not None
    assert round(stepped.seconds) == 86_400
    assert second.now_ns() == START_NS
    await second.persist()
    assert int(store.values["clock.floor"]) == START_NS
