"""Suspects and culprits by digest, turns at a worker, and which deaths count against a model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.errors import Quarantined
from exclave_agent.runtimes import frames, quarantine
from exclave_agent.runtimes.quarantine import Quarantine
from exclave_agent.runtimes.restart import LOOP, Deaths, Timings
from exclave_agent.runtimes.turns import Turns
from exclave_testing.clock import FakeClock, SeededRng

# --- quarantine ----------------------------------------------------------------------------------


def embed(text: str, request: int = 1) -> frames.Embed:
    return frames.Embed(request, [text])


def generate(seed: int, temperature: float = 1.0) -> frames.Generate:
    sampling = frames.SamplingFrame(4, temperature, 1.0, 0, 0.0, 0.0, 0.0, seed, [], None)
    return frames.Generate(seed, [], "text", sampling, caller=f"caller {seed}")


def test_a_seed_is_no_content() -> None:
    kept = Quarantine(b"k", FakeClock())
    assert kept.fingerprint("m", generate(1)) == kept.fingerprint("m", generate(2))
    assert kept.fingerprint("m", generate(1)) != kept.fingerprint("m", generate(1, 0.5))


def test_two_deaths_make_a_culprit_and_an_answer_clears_a_suspect() -> None:
    kept = Quarantine(b"k", FakeClock())
    one = kept.fingerprint("m", embed("a"))
    assert not kept.check(one)
    assert not kept.strike(one, worker=1)
    assert kept.check(one)
    kept.clear(one)
    assert not kept.check(one)
    assert len(kept) == 0
    kept.strike(one, worker=2)
    assert kept.strike(one, worker=3)
    with pytest.raises(Quarantined):
        kept.check(one)


def test_copies_that_died_together_are_struck_once() -> None:
    kept = Quarantine(b"k", FakeClock())
    one = kept.fingerprint("m", embed("a"))
    assert not any(kept.strike(one, worker=1) for _ in range(9))
    assert kept.check(one)


def test_only_content_counts_and_the_key_makes_it_untellable() -> None:
    kept = Quarantine(b"k", FakeClock())
    assert kept.fingerprint("m", embed("a", 1)) == kept.fingerprint("m", embed("a", 2))
    assert kept.fingerprint("m", embed("a")) != kept.fingerprint("m", embed("b"))
    assert kept.fingerprint("m", embed("a")) != kept.fingerprint("n", embed("a"))
    other = Quarantine(b"other", FakeClock())
    assert kept.fingerprint("m", embed("a")) != other.fingerprint("m", embed("a"))


async def test_it_is_forgotten_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    kept = Quarantine(b"k", clock)
    one = kept.fingerprint("m", embed("a"))
    kept.strike(one, 1)
    kept.strike(one, 2)
    await clock.advance(quarantine.SECONDS - 1)
    with pytest.raises(Quarantined):
        kept.check(one)
    await clock.advance(1)
    assert not kept.check(one)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "REMEMBERED", 3)
    kept = Quarantine(b"k", FakeClock())
    prints = [kept.fingerprint("m", embed(str(n))) for n in range(5)]
    for one in prints:
        kept.strike(one, 1)
    assert len(kept) == 3
    assert [kept.check(one) for one in prints] == [False, False, True, True, True]


# --- turns ---------------------------------------------------------------------------------------


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_whoever_is_alone_is_alone_and_goes_before_newcomers() -> None:
    turns = Turns()
    log: list[str] = []

    async def take(name: str, *, alone: bool, until: asyncio.Event) -> None:
        async with turns.turn(alone=alone):
            log.append(name)
            await until.wait()

    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(take("together 1", alone=False, until=first))
        group.create_task(take("together 2", alone=False, until=first))
        await settle()
        group.create_task(take("alone", alone=True, until=second))
        await settle()
        group.create_task(take("newcomer", alone=False, until=second))
        await settle()
        assert log == ["together 1", "together 2"]
        first.set()
        await settle()
        assert log[2:] == ["alone"]
        second.set()
    assert log[3:] == ["newcomer"]


async def test_a_cancelled_wait_lets_the_others_through() -> None:
    turns = Turns()
    async with AsyncExitStack() as held:
        await held.enter_async_context(turns.turn(alone=False))

        async def take(*, alone: bool) -> None:
            async with turns.turn(alone=alone):
                pass

        suspect = asyncio.create_task(take(alone=True))
        await settle()
        newcomer = asyncio.create_task(take(alone=False))
        await settle()
        assert not newcomer.done()
        suspect.cancel()
        await settle()
        assert newcomer.done()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=12))
def test_turns_never_mix_and_none_is_lost(plan: list[tuple[bool, int, bool]]) -> None:
    async def play() -> None:
        turns, inside = Turns(), {True: 0, False: 0}

        async def take(alone: bool, pauses: int) -> None:
            async with turns.turn(alone=alone):
                inside[alone] += 1
                try:
                    assert inside[True] == 0 or (inside[True] == 1 and inside[False] == 0)
                    for _ in range(pauses):
                        await asyncio.sleep(0)
                finally:
                    inside[alone] -= 1

        tasks = []
        for alone, pauses, cancel in plan:
            tasks.append(asyncio.create_task(take(alone, pauses)))
            await asyncio.sleep(0)
            if cancel:
                tasks[-1].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert not [one for one in results if isinstance(one, Exception)]
        async with asyncio.timeout(5), turns.turn(alone=True):
            pass

    # A fresh loop for each example.
    asyncio.run(play())


# --- deaths --------------------------------------------------------------------------------------


def deaths() -> Deaths:
    return Deaths(Timings(first_backoff=1, longest_backoff=4), SeededRng())


def test_unexplained_deaths_add_up_to_a_loop_and_wait_longer_each_time() -> None:
    one = deaths()
    waits = [died(one) for _ in range(LOOP)]
    assert one.looping
    assert waits[0] == 0
    assert 2 <= waits[1] <= 4
    assert died(one, lived=1e6) == 0
    assert not one.looping


def died(
    one: Deaths, *suspects: str, lived: float = 1, guilty: bool = False, answered: bool = True
) -> float:
    """`suspects` as "request/caller"."""
    callers = dict(each.split("/") for each in suspects)
    found = {request.encode(): caller for request, caller in callers.items()}
    return one.count(lived=lived, suspects=found, guilty=guilty, answered=answered)


def test_deaths_that_a_request_explains_do_not_and_still_wait() -> None:
    one = deaths()
    for n in range(10):
        died(one, f"{n}/a", "bystander/b")
        one.convict(f"{n}".encode())
        assert died(one, f"{n}/a", guilty=True) > 0
        assert one.in_a_row == 0


def test_a_model_that_never_answered_is_to_blame_itself() -> None:
    one = deaths()
    for n in range(LOOP):
        assert not one.looping
        died(one, f"{n}/a", answered=False)
        one.convict(f"{n}".encode())
        died(one, f"{n}/a", guilty=True, answered=False)
    assert one.looping


def test_one_caller_whose_requests_are_at_every_death_makes_no_loop() -> None:
    one = deaths()
    for n in range(3 * LOOP):
        died(one, f"{n}/a", f"bystander {n}/b{n}")
    assert one.in_a_row == 0
    assert died(one, "x/a") > 0


def test_deaths_that_no_one_caller_explains_are_the_models() -> None:
    one = deaths()
    for n in range(LOOP):
        assert not one.looping
        died(one, f"x/caller {n}")
    assert one.looping


def test_a_death_whose_suspects_were_all_answered_is_the_models() -> None:
    one = deaths()
    for n in range(LOOP):
        died(one, f"{n}/a", "y/a")
        one.acquit(f"{n}".encode())
        assert one.in_a_row == n
        one.acquit(b"y")
        assert one.in_a_row == n + 1
    assert one.looping
