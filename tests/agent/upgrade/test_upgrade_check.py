"""From when the deadline counts: not while the service manager waits with the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from exclave_agent.upgrade.check import QUEUED, Checker, Verdict
from exclave_agent.upgrade.ports import UnitState
from exclave_agent.upgrade.state import Before

DEADLINE, SETTLE = 60.0, 10.0


class World:
    """An agent whose start is queued for `waits` seconds, and that is well `slow` later."""

    def __init__(self, waits: float, slow: float, waiting: UnitState) -> None:
        self.time = 0.0
        self._begins, self._well = waits, waits + slow
        self._waiting = waiting

    def unit(self) -> UnitState:
        if self.time < self._begins:
            return self._waiting
        if self.time < self._well:
            return UnitState("activating", "start", 0, "new", job=True)
        return UnitState("active", "running", 0, "new")

    def daemon_reload(self) -> None:
        raise AssertionError

    def restart(self) -> None:
        pass

    def status(self) -> Mapping[str, Any] | None:
        return {"version": "0.2.0"}

    def now(self) -> int:
        return int(self.time)

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def judge(self) -> Verdict:
        checker = Checker(self, self, self, settle=SETTLE)
        return checker.judge("0.2.0-1", Before(), DEADLINE)


AT_BOOT = UnitState("inactive", "dead", 0, "", job=True)
STOPPING = UnitState("deactivating", "stop-sigterm", 0, "old", job=True)


@pytest.mark.parametrize("waiting", [AT_BOOT, STOPPING])
def test_the_wait_for_the_network_or_the_former_end_does_not_count(waiting: UnitState) -> None:
    assert World(waits=120, slow=DEADLINE - 5, waiting=waiting).judge().healthy


def test_the_start_itself_counts() -> None:
    world = World(waits=120, slow=DEADLINE + 5, waiting=AT_BOOT)
    verdict = world.judge()
    assert (verdict.healthy, verdict.code) == (False, "unit_failed")
    assert world.time == pytest.approx(120 + DEADLINE, abs=1)


def test_a_unit_that_nobody_starts_is_not_waited_for() -> None:
    world = World(waits=10**9, slow=0, waiting=UnitState("inactive", "dead", 0, ""))
    assert not world.judge().healthy
    assert world.time == pytest.approx(DEADLINE, abs=1)


def test_a_start_that_is_queued_for_ever_is_given_up() -> None:
    world = World(waits=10**9, slow=0, waiting=AT_BOOT)
    assert not world.judge().healthy
    assert world.time == pytest.approx(QUEUED + DEADLINE, abs=1)
