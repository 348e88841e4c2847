"""From when the deadline counts: not while the service manager waits with the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from exclave_agent.upgrade.check import QUEUED, UNANSWERED, Checker, Verdict
from exclave_agent.upgrade.ports import ServiceTrouble, UnitState
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


# --- a service manager that is not there ---------------------------------------------------------


class Leaving(World):
    """Its service manager cannot be asked for `gone` seconds, and then refuses `refusals` times."""

    def __init__(self, gone: float, *, at: str = "unit", refusals: int = 0) -> None:
        super().__init__(waits=0, slow=0, waiting=AT_BOOT)
        self._gone, self._at, self._refusals = gone, at, refusals
        self._asked = self._restarted = False

    def unit(self) -> UnitState:
        if self.time < self._gone and (self._at == "unit" or self._asked):
            raise ServiceTrouble("systemctl exited 1: Transport endpoint is not connected")
        return super().unit() if self._restarted else UnitState("active", "running", 0, "old")

    def restart(self) -> None:
        self._asked = True
        if self.time < self._gone or self._refusals:
            self._refusals -= self.time >= self._gone
            raise ServiceTrouble("systemctl exited 5: Unit not found")
        self._restarted = True


@pytest.mark.parametrize("at", ["unit", "restart"])
def test_a_service_manager_that_does_not_answer_says_nothing_of_a_version(at: str) -> None:
    """A machine that goes down takes it away first: what comes after it goes on with the check."""
    assert Leaving(UNANSWERED - 1, at=at).judge().healthy
    verdict = Leaving(10**9, at=at).judge()
    assert (verdict.healthy, verdict.code) == (False, "unit_failed")


def test_one_that_answers_and_refuses_is_believed() -> None:
    world = Leaving(0, refusals=1)
    verdict = world.judge()
    assert (verdict.healthy, verdict.message) == (False, "systemctl exited 5: Unit not found")
    assert world.time == 0
