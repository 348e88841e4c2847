"""What is computed once and used again, by whom, and for how long.

The fake engine fails a test by itself when a sequence starts behind tokens that are not its own
beginning, or behind what another caller wrote.
"""

from __future__ import annotations

import pytest

from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.prefix import Kept, PrefixStore, Stored, shared
from exclave_testing.fake_engine import TOKEN_BYTES, Bench, Cell, FakeEngine, FakeState

SYSTEM = list(range(100, 140))
"""Forty tokens that everybody may share."""
LETTER = 50
"""Where a fake answer's tokens cannot be mistaken for a prompt's."""


def test_what_was_asked_and_answered_serves_the_same_caller() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    first = bench.submit(1, prompt=[*SYSTEM, 1, 2, 3], max_tokens=30, shareable=40, caller="anna")
    bench.run()
    talk = first.tokens[:]
    assert len(talk) == 43 + 30
    bench.submit(2, prompt=[*talk, 4, 5], max_tokens=2, shareable=40, caller="anna")
    bench.run()
    # All but the last token of the answer, which was never decoded.
    assert bench.began(2) == 72
    assert bench.ended[2].cached_tokens == 72
    stats = bench.scheduler.stats()
    assert (stats.prefix_hits, stats.prefix_tokens) == (1, 72)


@pytest.mark.parametrize(("caller", "finds"), [("anna", 60), ("boris", 40), ("", 40)])
def test_another_caller_starts_behind_what_everybody_shares_only(caller: str, finds: int) -> None:
    prompt = [*SYSTEM, *range(200, 220)]
    for slots in (1, 2):
        engine = FakeEngine(slots=slots)
        bench = Bench(engine, prefix_bytes=100_000)

        def ask(request: int, name: str, tokens: int = 2, *, bench: Bench = bench) -> None:
            # Each Boris is another one: nobody finds what he wrote himself.
            name = f"boris {request}" if name == "boris" else name
            bench.submit(request, [*prompt, request], tokens, shareable=40, caller=name)

        ask(1, "anna")
        bench.run()
        ask(2, caller)
        bench.run()
        assert bench.began(2) == finds
        # And from a slot that is running, and from the store.
        ask(3, "anna", 40)
        bench.at(len(engine.plans) + 9, lambda ask=ask: ask(4, caller))  # type: ignore[misc]
        bench.run()
        assert bench.began(4) == finds
        for other in range(10, 14):
            bench.submit(other, prompt=[other] * 30, max_tokens=1, caller=f"{other}")
        bench.run()
        ask(5, caller)
        bench.run()
        assert bench.began(5) == finds


def test_those_without_a_name_share_nothing_they_wrote() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, prefix_bytes=100_000)
    for request in (1, 2):
        bench.submit(request, prompt=[*SYSTEM, *SYSTEM, request], max_tokens=2, shareable=40)
        bench.run()
    assert bench.began(2) == 40
    assert (0, 40) in engine.forgotten


def test_a_running_slot_is_copied_from() -> None:
    engine = FakeEngine(slots=2, step_tokens=64)
    bench = Bench(engine)
    bench.submit(1, prompt=[*SYSTEM, 1], max_tokens=30, shareable=40)
    bench.at(5, lambda: bench.submit(2, prompt=[*SYSTEM, 2], max_tokens=2, shareable=40))
    bench.run()
    assert engine.copies == [(0, 1, 40)]
    assert bench.began(2) == 40


def test_what_loses_its_slot_comes_back_from_the_store_within_its_bytes() -> None:
    engine = FakeEngine(slots=1, step_tokens=64)
    bench = Bench(engine, prefix_bytes=3 * 41 * (TOKEN_BYTES + 8))
    systems = {n: [n * 50 + at for at in range(40)] for n in range(1, 7)}
    for n, system in systems.items():
        bench.submit(n, prompt=[*system, 1], max_tokens=1, shareable=40)
        bench.run()
        assert bench.scheduler.stats().prefix_bytes <= 3 * 41 * (TOKEN_BYTES + 8)
    for n in (6, 5, 4, 3, 1):
        bench.submit(10 + n, prompt=[*systems[n], 2], max_tokens=1, shareable=40)
        bench.run()
    # 6 was in the slot still and 5 to 3 in the store, from which it pushed out 3 when 5 came.
    assert [bench.began(10 + n) for n in (6, 5, 4, 3, 1)] == [40, 40, 40, 0, 0]
    assert bench.scheduler.stats().prefix_hits == 3


def test_a_state_that_the_engine_refuses_is_forgotten_and_computed() -> None:
    engine = FakeEngine(slots=1, step_tokens=64)
    bench = Bench(engine, prefix_bytes=100_000)
    bench.submit(1, prompt=[*SYSTEM, 1], max_tokens=1, shareable=40)
    bench.submit(2, prompt=[7] * 30, max_tokens=1)
    bench.run()
    engine.refuses_states = True
    bench.submit(3, prompt=[*SYSTEM, 3], max_tokens=2, shareable=40)
    bench.run()
    assert engine.restores == [0]
    assert bench.began(3) == 0
    assert bench.texts[3] == "ab"
    assert bench.ended[3].cached_tokens == 0


def test_what_is_old_is_forgotten_even_when_nobody_asks_any_more() -> None:
    engine = FakeEngine(slots=2, step_tokens=64)
    bench = Bench(engine, prefix_bytes=100_000, prefix_seconds=600.0)
    for request in (1, 2, 3):
        bench.submit(request, prompt=[request] * 40, max_tokens=5, caller="anna")
    bench.run()
    slots, store = bench.scheduler._slots, bench.scheduler._store
    assert any(engine.cells)
    assert len(store) == 1
    left = slots.expire(engine.clock.now)
    assert left is not None
    # So long does the idle loop sleep; then:
    assert 598 < left <= 600
    engine.clock.now += left
    assert slots.expire(engine.clock.now) is not None
    engine.clock.now += 2
    assert slots.expire(engine.clock.now) is None
    assert not any(engine.cells)
    assert (len(store), store.bytes) == (0, 0)


def test_without_reuse_nothing_is_kept() -> None:
    engine = FakeEngine(slots=2)
    engine.reuses = False
    bench = Bench(engine, prefix_bytes=100_000)
    for request in (1, 2, 3):
        bench.submit(request, prompt=[*SYSTEM, request], max_tokens=3, shareable=40, caller="a")
    bench.run()
    assert [bench.began(request) for request in (1, 2, 3)] == [0, 0, 0]
    assert not any(engine.cells)
    assert not engine.saves


def test_adapters_do_not_share_what_they_computed() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, prefix_bytes=100_000)
    for request, adapter in ((1, ""), (2, "x"), (3, "x")):
        bench.submit(
            request, prompt=[*SYSTEM, request], max_tokens=3, shareable=40, adapter=adapter
        )
    bench.run()
    assert [bench.began(request) for request in (1, 2, 3)] == [0, 0, 40]


# --- leaders and followers ----------------------------------------------------------------------


def test_requests_that_arrive_together_compute_their_beginning_once() -> None:
    engine = FakeEngine(slots=4, step_tokens=16)
    bench = Bench(engine)
    for request in (1, 2, 3, 4):
        bench.submit(request, prompt=[*SYSTEM, request, request], max_tokens=3, shareable=40)
    bench.run()
    computed = sum(entry[3] for plan in engine.plans for entry in plan)
    assert computed == 40 + 4 * 2 + 4 * 2
    assert [bench.began(request) for request in (2, 3, 4)] == [40, 40, 40]
    assert sorted(to for _, to, _ in engine.copies) == [1, 2, 3]
    assert set(bench.texts.values()) == {"abc"}
    assert [bench.ended[n].cached_tokens for n in (1, 2, 3, 4)] == [0, 40, 40, 40]


def test_nobody_waits_where_computing_is_cheaper() -> None:
    engine = FakeEngine(slots=2, measured=Measured(token=1e-7, rows={1: 0.1}, copy=1.0))
    bench = Bench(engine)
    for request in (1, 2):
        bench.submit(request, prompt=[*SYSTEM, request], max_tokens=3, shareable=40)
    bench.run()
    assert not engine.copies
    assert [bench.began(request) for request in (1, 2)] == [0, 0]


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_followers_go_on_without_their_leader(how: str) -> None:
    engine = FakeEngine(slots=3, step_tokens=16)
    bench = Bench(engine)
    for request in (1, 2, 3):
        timeout = 0.3 if (how, request) == ("late", 1) else None
        bench.submit(
            request, prompt=[*SYSTEM, request], max_tokens=3, shareable=40, timeout=timeout
        )
    if how == "cancelled":
        bench.at(1, lambda: bench.scheduler.cancel(1))
    bench.run()
    assert bench.texts == {2: "abc", 3: "abc"}
    # What the leader had computed is not computed again.
    assert sum(entry[3] for plan in engine.plans for entry in plan) < 40 + 2 * 3 + 20


def test_an_interactive_request_does_not_wait_for_a_batch_one() -> None:
    engine = FakeEngine(slots=2, step_tokens=16)
    bench = Bench(engine)
    bench.submit(1, prompt=[*SYSTEM, 1], max_tokens=2, shareable=40, batch=True)
    bench.at(0, lambda: bench.submit(2, prompt=[*SYSTEM, 2], max_tokens=2, shareable=40))
    bench.run()
    assert bench.finals == [2, 1]
    # What the batch sequence had computed by then was copied.
    assert bench.began(2) == 16


# --- parts ------------------------------------------------------------------------------------


def test_the_store_prefers_longer_entries_and_forgets_the_longest_unused() -> None:
    store = PrefixStore(limit=1000)

    def add(tokens: list[int], caller: str) -> None:
        cells = tuple(Cell(one, 0, "", True, "") for one in tokens)
        store.add(Kept(tokens, 0, caller, "", 0.0), FakeState(cells[:2]))

    def held() -> list[list[int]]:
        return [entry.kept.tokens for entry in store]

    add([1, 2], "anna")
    add([1, 2, 3], "anna")
    assert held() == [[1, 2, 3]]
    add([1, 2], "boris")
    add([5, 6], "anna")
    first: Stored = next(iter(store))
    store.used(first, 1.0)
    assert held() == [[1, 2], [5, 6], [1, 2, 3]]
    for token in range(10, 20):
        add([token], "anna")
        assert store.bytes == sum(entry.nbytes for entry in store) <= 1000
    store.expire(2.0)
    assert (len(store), store.bytes) == (0, 0)


def test_a_store_that_is_never_hit_is_filled_ever_more_rarely() -> None:
    store = PrefixStore(limit=10_000)
    taken = 0
    for number in range(2000):
        if store.pays(100, saved=1.0, spent=0.01):
            store.add(Kept([number], 0, "a", "", 0.0), FakeState(()))
            taken += 1
    assert 200 < taken < 700
    assert not store.pays(20_000, saved=1.0, spent=0.0)


def test_common_beginnings() -> None:
    assert shared([1, 2, 3], [1, 2, 4]) == 2
    assert shared([1, 2, 3], [1, 2, 3, 4]) == 3
    assert shared([1, 2, 3], [1, 2, 3, 4], 1) == 1
    assert shared([1], [2]) == shared([], [1]) == shared([1], [1], -3) == 0
    long = list(range(1000))
    for at in range(0, 1000, 37):
        assert shared(long, [*long[:at], -1, *long[at + 1 :]]) == at
