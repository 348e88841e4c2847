"""Costs, their probe, counters of callers, the queue, lookups: each by itself."""

from __future__ import annotations

import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.costs import Costs, Measured
from exclave_agent.runtimes.costs_probe import BUDGET, probe
from exclave_agent.runtimes.draft import Lookup, expected
from exclave_agent.runtimes.engine import Running, State
from exclave_agent.runtimes.fairness import Fairness, FairQueue
from exclave_agent.runtimes.parking import Parking
from exclave_agent.runtimes.text import StopFilter
from exclave_testing.fake_engine import FakeSampler, FakeState, Ticks, sampling

# --- costs ----------------------------------------------------------------------------------


def test_costs_between_and_beyond_what_was_measured() -> None:
    costs = Costs(Measured(token=0.01, rows={1: 0.1, 5: 0.3}))
    assert costs.step(1) == pytest.approx(0.1)
    assert costs.step(3) == pytest.approx(0.2)
    assert costs.step(7) == pytest.approx(0.4)
    assert costs.prefill(10) == pytest.approx(0.1)
    assert costs.chunk(0.25, 1) == 15
    assert costs.chunk(0.05, 1) == 0


def test_a_machine_that_slows_down_slows_all_points() -> None:
    costs = Costs(Measured(token=0.01, rows={1: 0.1, 9: 0.2}))
    for _ in range(100):
        costs.saw_step(0.3, 1, 0)
    assert costs.step(1) == pytest.approx(0.3, rel=0.02)
    # The point that was not visited follows: its guesses did not become cheaper.
    assert costs.step(9) / costs.step(1) == pytest.approx(2.0, rel=0.5)
    assert costs.token > 0.02


def test_one_step_of_a_minute_is_no_new_speed() -> None:
    costs = Costs(Measured(token=0.01, rows={1: 0.1}))
    costs.saw_step(60.0, 1, 0)
    assert costs.step(1) < 0.2
    costs.saw_step(60.0, 1, 100)
    assert costs.token < 0.03


def test_the_least_time_of_a_token_comes_from_large_chunks_only() -> None:
    costs = Costs(Measured())
    costs.saw_step(0.001, 0, 20)
    assert costs.fastest_token is None
    costs.saw_step(2.0, 0, 200)
    costs.saw_step(4.0, 0, 200)
    assert costs.fastest_token == pytest.approx(0.005)


class Machine:
    """Decodes at a speed; see `costs_probe.Probed`."""

    slots = 8
    step_tokens = 512

    def __init__(self, token: float) -> None:
        self.clock = Ticks()
        self._token = token
        self.tried: list[int] = []

    def try_rows(self, sequences: int, tokens: int, *, logits: bool) -> None:
        self.tried.append(sequences * tokens)
        self.clock.now += self._token * (10 + sequences * tokens)

    def try_fill(self, tokens: int) -> None:
        self.clock.now += self._token * (10 + tokens)

    def save(self, slot: int) -> State:
        self.clock.now += 1e-4
        return FakeState(())

    def restore(self, slot: int, state: State) -> bool:
        self.clock.now += 1e-4
        return True

    def forget(self, slot: int, keep: int = 0) -> None:
        pass


def test_the_probe_measures_within_its_time() -> None:
    fast = Machine(0.0001)
    measured = probe(fast, 8, fast.clock)
    assert set(measured.rows) == {1, 2, 5, 8, 9, 16, 20}
    assert measured.rows[9] == pytest.approx(0.0019)
    assert measured.token == pytest.approx(0.0001)
    slow = Machine(0.01)
    started = slow.clock.now
    measured = probe(slow, 8, slow.clock)
    # What cannot be left out took longer than the budget: nothing was added.
    assert set(measured.rows) == {1}
    assert slow.clock.now - started < 7 * BUDGET
    assert 9 not in probe(fast, 0, fast.clock).rows


# --- callers ----------------------------------------------------------------------------------


def running(request: int, caller: str, batch: bool = False) -> Running:
    frame = frames.Generate(
        request,
        [],
        "",
        sampling(5),
        caller=caller,
        priority="batch" if batch else "interactive",
    )
    return Running(frame, [1, 2], FakeSampler(), StopFilter())


def test_counters_of_callers_are_bounded_and_those_in_use_stay() -> None:
    fairness = Fairness(most=10)
    fairness.enter("busy")
    fairness.charge("busy", 500)
    for number in range(1000):
        fairness.enter(f"passer-by {number}")
        fairness.leave(f"passer-by {number}")
    assert len(fairness) <= 11
    assert fairness.served("busy") == 500


def test_a_newcomer_starts_level_with_the_least_served() -> None:
    fairness = Fairness()
    for caller in ("a", "b"):
        fairness.enter(caller)
    for caller, tokens in (("a", 300.0), ("b", 200.0)):
        fairness.charge(caller, tokens)
    fairness.enter("new")
    assert fairness.served("new") == 200
    for caller in ("a", "b", "new"):
        fairness.leave(caller)
    fairness.enter("later")
    assert fairness.served("later") >= 200


def test_the_queue_s_order_and_sizes() -> None:
    fairness = Fairness()
    queue = FairQueue(fairness)
    requests = [running(1, "a"), running(2, "a"), running(3, "b"), running(4, "b", batch=True)]
    for one in requests:
        fairness.enter(one.caller)
        queue.push(one)
    fairness.charge("a", 10)
    assert (len(queue), queue.size(True), queue.size(False)) == (4, 3, 1)
    assert [queue.pop().id, queue.pop(batch_first=True).id] == [3, 4]
    queue.remove(requests[0])
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(requests[0])
    queue.push(requests[0], first=True)
    assert [one.id for one in queue] == [1, 2]
    assert [queue.pop().id, queue.pop().id] == [1, 2]
    with pytest.raises(IndexError):
        queue.pop()


def test_parking_knows_its_bytes() -> None:
    parking = Parking(limit=0)
    assert not parking.put(1, FakeState((None,) * 3))  # type: ignore[arg-type]  # only counted
    parking = Parking(limit=500)
    assert parking.put(1, FakeState((None,) * 3))  # type: ignore[arg-type]  # only counted
    assert not parking.put(2, FakeState((None,) * 3))  # type: ignore[arg-type]  # only counted
    assert parking.bytes == 300
    assert parking.take(2) is None
    assert parking.take(1) is not None
    assert (parking.bytes, len(parking), parking.take(1)) == (0, 0, None)


# --- guesses ----------------------------------------------------------------------------------


def test_a_lookup_finds_what_followed_last_time() -> None:
    tokens = [1, 2, 3, 4, 5, 1, 2]
    assert list(Lookup().guess(tokens, 3)) == [3, 4, 5]
    # A triple counts more than a later pair.
    tokens = [9, 1, 2, 7, 7, 8, 1, 2, 6, 6, 9, 1, 2]
    assert list(Lookup().guess(tokens, 2)) == [7, 7]
    assert not Lookup().guess([1, 2, 3], 4)
    assert not Lookup().guess([1, 1], 4)
    growing = Lookup()
    for size in range(1, len(tokens) + 1):
        assert list(growing.guess(tokens[:size], 2)) == list(Lookup().guess(tokens[:size], 2))


def test_expected_tokens_of_a_draft() -> None:
    assert expected(0.5, 2) == pytest.approx(0.75)
    assert expected(1.0, 8) == pytest.approx(8.0, rel=0.01)
    assert expected(0.0, 8) == 0
