"""Dynamic batching by a clock of the test's own: when a batch closes, and who is in it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.runtimes.onnx_batching import Batches


@dataclass(frozen=True)
class Job:
    id: int
    rows: int
    arrived: float
    shape: str = "a"


def ids(batches: Batches[Job], now: float) -> list[int] | None:
    batch = batches.take(now)
    return None if batch is None else [job.id for job in batch.jobs]


def test_a_batch_closes_when_its_oldest_has_waited() -> None:
    batches: Batches[Job] = Batches(8, 0.5)
    assert batches.due() is None
    assert not batches.push(Job(1, 1, 10.0))
    assert not batches.push(Job(2, 1, 10.4))
    assert batches.due() == 10.5
    assert ids(batches, 10.49) is None
    # The second waited a tenth only: the first's time is the batch's.
    assert ids(batches, 10.5) == [1, 2]
    assert batches.due() is None


def test_what_waited_while_a_batch_ran_is_not_made_to_wait_again() -> None:
    batches: Batches[Job] = Batches(8, 0.5)
    batches.push(Job(1, 1, 10.0))
    # The engine was busy until now.
    assert ids(batches, 12.0) == [1]


def test_a_full_batch_closes_at_once_and_leaves_the_rest() -> None:
    batches: Batches[Job] = Batches(4, 0.5)
    assert [batches.push(Job(n, 1, 10.0)) for n in range(3)] == [False] * 3
    assert batches.push(Job(3, 3, 10.1))
    assert ids(batches, 10.1) == [0, 1, 2]
    assert ids(batches, 10.1) is None
    assert batches.due() == 10.6
    assert len(batches) == 1


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    batches: Batches[Job] = Batches(4, 0.5)
    assert batches.push(Job(1, 9, 10.0))
    batches.push(Job(2, 1, 10.0))
    assert ids(batches, 10.0) == [1]


def test_without_batches_everyone_runs_alone_at_once() -> None:
    batches: Batches[Job] = Batches(1, 0.5)
    for n in range(3):
        assert batches.push(Job(n, 0, 10.0))
    assert [ids(batches, 10.0) for _ in range(4)] == [[0], [1], [2], None]


def test_shapes_do_not_hold_each_other_back() -> None:
    batches: Batches[Job] = Batches(2, 0.5)
    batches.push(Job(1, 1, 10.0, "a"))
    batches.push(Job(2, 1, 10.1, "b"))
    batches.push(Job(3, 1, 10.2, "b"))
    assert ids(batches, 10.2) == [2, 3]
    assert ids(batches, 10.2) is None
    assert ids(batches, 10.5) == [1]


def test_a_cancelled_request_is_in_no_batch() -> None:
    batches: Batches[Job] = Batches(2, 0.5)
    batches.push(Job(1, 1, 10.0))
    assert batches.remove(1)
    assert not batches.remove(1)
    assert len(batches) == 0
    assert batches.due() is None
    assert not batches.push(Job(2, 1, 10.1)), "the cancelled one's row is free again"
    assert ids(batches, 10.6) == [2]


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 30),  # ticks since the one before
        st.integers(0, 6),  # rows
        st.sampled_from("aab"),
        st.booleans(),  # cancelled when the next one arrives
    ),
    max_size=40,
)


@given(ARRIVALS, st.integers(1, 8), st.integers(0, 40), st.integers(1, 25))
def test_any_arrivals(
    arrivals: list[tuple[int, int, str, bool]], max_batch: int, max_wait: int, run: int
) -> None:
    """An engine that is busy for `run` ticks a batch, by a clock of whole ticks."""
    batches: Batches[Job] = Batches(max_batch, max_wait)
    jobs: dict[int, Job] = {}
    cancelled: set[int] = set()
    started: dict[int, int] = {}
    now = free_at = 0

    def work(until: int) -> None:
        """Run what closes before `until`, as the host's loop does."""
        nonlocal free_at
        while (due := batches.due()) is not None and max(due, free_at) <= until:
            at = int(max(due, free_at, now))
            if at > until:
                break
            batch = batches.take(at)
            assert batch is not None, "what is due closes"
            check(batch.jobs, at)
            free_at = at + run

    def check(batch: list[Job], at: int) -> None:
        assert len({job.shape for job in batch}) == 1
        weight = sum(max(1, job.rows) for job in batch)
        assert weight <= max_batch or len(batch) == 1
        waited = at - batch[0].arrived
        rest = [one for one in batches if one.shape == batch[0].shape]
        full = weight >= max_batch or bool(rest)
        assert full or waited >= max_wait, "nobody is run early for nothing"
        for job in batch:
            assert job.id not in started, "once"
            assert job.id not in cancelled
            started[job.id] = at
        assert all(one.arrived >= batch[-1].arrived for one in rest), "first come, first served"

    last: tuple[int, bool] | None = None
    for number, (gap, rows, shape, cancel) in enumerate(arrivals):
        work(now + gap - 1)
        now += gap
        if last is not None and last[1] and batches.remove(last[0]):
            cancelled.add(last[0])
        jobs[number] = Job(number, rows, now, shape)
        batches.push(jobs[number])
        last = (number, cancel)
    work(1 << 40)
    assert set(started) == set(jobs) - cancelled, "everybody is run"
    assert len(batches) == 0


@given(ARRIVALS, st.integers(2, 8), st.integers(0, 40))
def test_with_an_engine_at_rest_nobody_waits_longer_than_max_wait(
    arrivals: list[tuple[int, int, str, bool]], max_batch: int, max_wait: int
) -> None:
    batches: Batches[Job] = Batches(max_batch, max_wait)
    now = 0

    def work(until: int) -> None:
        while (due := batches.due()) is not None and due <= until:
            at = max(int(due), now)
            batch = batches.take(at)
            assert batch is not None
            for job in batch.jobs:
                assert at - job.arrived <= max_wait

    for number, (gap, rows, shape, _) in enumerate(arrivals):
        work(now + gap)
        now += gap
        batches.push(Job(number, rows, now, shape))
    work(1 << 40)
    assert len(batches) == 0
