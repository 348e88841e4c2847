"""Requests with grammars are prepared beside the reader, and can be cancelled there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import Refused, Running
from exclave_agent.runtimes.intake import Intake, slow
from exclave_agent.runtimes.text import StopFilter
from exclave_testing.fake_engine import FakeSampler, Ticks
from exclave_testing.sampling import sampling

PATIENCE = 20
"""Seconds after which a test gives up: nothing here takes a moment."""


def asked(request: int, timeout: float | None = None) -> frames.Generate:
    micros = None if timeout is None else int(timeout * 1e6)
    return frames.Generate(request, [], "x", sampling(grammar="start: x"), timeout_us=micros)


class Slow:
    """Prepares when it is let, and remembers what was handed on."""

    def __init__(self, limit: int = 9) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.told = threading.Semaphore(0)
        self.samplers: dict[int, FakeSampler] = {}
        self.submitted: list[tuple[int, float]] = []
        self.failed: dict[int, str] = {}
        self.refuse: dict[int, str] = {}
        self.clock = Ticks()
        self.intake = Intake(self.prepare, self.submit, self.emit, limit, monotonic=self.clock)

    def prepare(self, request: frames.Generate) -> Running:
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE)
        if request.id in self.refuse:
            raise Refused(self.refuse[request.id], "no")
        self.samplers[request.id] = sampler = FakeSampler()
        return Running(request, [1], sampler, StopFilter())

    def submit(self, sequence: Running, arrived: float) -> None:
        self.submitted.append((sequence.id, arrived))
        self.told.release()

    def emit(self, *sent: frames.ToAgent) -> None:
        for frame in sent:
            assert isinstance(frame, frames.Failed)
            self.failed[frame.id] = frame.code
            self.told.release()

    def next(self) -> None:
        """Wait until the next one is being prepared."""
        assert self.begun.acquire(timeout=PATIENCE)

    def all_told(self, count: int) -> None:
        """Wait for so many answers."""
        for _ in range(count):
            assert self.told.acquire(timeout=PATIENCE)


@pytest.fixture
def desk() -> Iterator[Slow]:
    made = Slow()
    yield made
    for _ in range(20):
        made.go.release()


def test_the_reader_does_not_wait_and_the_time_of_arrival_counts(desk: Slow) -> None:
    desk.intake.put(asked(1))
    desk.next()
    desk.clock.now += 3
    desk.intake.put(asked(2))
    assert len(desk.intake) == 1
    assert desk.submitted == []
    for _ in range(2):
        desk.go.release()
    desk.all_told(2)
    assert desk.submitted == [(1, 1000.0), (2, 1003.0)]


def test_what_is_cancelled_while_it_waits_or_is_prepared_goes_no_further(desk: Slow) -> None:
    for request in (1, 2, 3):
        desk.intake.put(asked(request))
    desk.next()
    desk.intake.cancel(1)
    desk.intake.cancel(2)
    desk.intake.cancel(99)
    for _ in range(2):
        desk.go.release()
    desk.all_told(1)
    assert [request for request, _ in desk.submitted] == [3]
    assert set(desk.samplers) == {1, 3}
    assert desk.samplers[1].closed == 1
    assert desk.failed == {}


def test_a_refusal_is_told_and_the_next_one_served(desk: Slow) -> None:
    desk.refuse[1] = "invalid_value"
    for request in (1, 2):
        desk.intake.put(asked(request))
        desk.go.release()
    desk.all_told(2)
    assert desk.failed == {1: "invalid_value"}
    assert [request for request, _ in desk.submitted] == [2]


def test_what_is_late_before_its_turn_is_not_prepared(desk: Slow) -> None:
    desk.intake.put(asked(1))
    desk.next()
    desk.intake.put(asked(2, timeout=0.5))
    desk.clock.now += 0.6
    desk.go.release()
    desk.all_told(2)
    assert desk.failed == {2: "deadline_exceeded"}
    assert set(desk.samplers) == {1}


def test_only_so_many_wait() -> None:
    desk = Slow(limit=1)
    desk.intake.put(asked(1))
    desk.next()
    desk.intake.put(asked(2))
    with pytest.raises(Refused) as caught:
        desk.intake.put(asked(3))
    assert (caught.value.code, caught.value.retry_after) == ("overloaded", 1.0)
    for _ in range(2):
        desk.go.release()
    desk.all_told(2)


def test_which_requests_may_take_long() -> None:
    tool = frames.ToolFrame("f", "", "{}")
    assert slow(asked(1))
    assert slow(frames.Generate(1, [], None, sampling(json_schema="{}")))
    assert slow(frames.Generate(1, [], None, sampling(), tools=[tool]))
    assert not slow(frames.Generate(1, [], None, sampling(), tools=[tool], tool_choice="none"))
    assert not slow(frames.Generate(1, [], "x", sampling()))
