"""Check: is the version that was just installed as healthy as the one before it?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from exclave_agent.upgrade.ports import Pace, Probe, Services, ServiceTrouble, UnitState
from exclave_agent.upgrade.state import Before
from exclave_protocol.packages import upstream

log = logging.getLogger(__name__)

POLL: Final = 0.5
"""Seconds between two looks."""
CRASHES: Final = 3
"""Automatic restarts after which nobody waits for the deadline."""
QUEUED: Final = 900.0
"""Seconds after which the deadline counts though the start that was asked for is still queued."""
UNANSWERED: Final = 60.0
"""Seconds for which a service manager that does not answer is asked again for a restart."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check."""

    healthy: bool
    code: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()


class Checker:
    """Restarts the agent and watches it."""

    def __init__(self, services: Services, probe: Probe, pace: Pace, *, settle: float) -> None:
        self._services = services
        self._probe = probe
        self._pace = pace
        self._settle = settle

    def judge(self, version: str, before: Before, deadline: float) -> Verdict:
        """Restart, then watch until it has been healthy for the settling time, or the deadline
        has passed without that. The deadline counts from when the service manager begins the
        start: at boot the unit may wait for the network for longer than any version should need.

        Healthy: the unit is active in one and the same start; the control socket answers with
        that version; the release of before (or a newer one) is active. A coordinator that was
        connected and is not again is a warning alone: it may be away for reasons of its own.
        Raises: Stopped.
        """
        try:
            former = self._restart()
        except ServiceTrouble as error:
            return Verdict(healthy=False, code="unit_failed", message=str(error))
        watch = _Watch(former, upstream(version), before)
        asked = self._pace.monotonic()
        began: float | None = None
        steady: float | None = None
        while True:
            status = self._look(watch)
            now = self._pace.monotonic()
            if began is None and (not watch.queued or now - asked >= QUEUED):
                began = now
            over = now - began - deadline if began is not None else -1.0
            if watch.trouble is None and status is not None:
                steady = now if steady is None or watch.changed else steady
                linked = not before.connected or Before.of(status).connected
                if now - steady >= self._settle and (linked or over >= 0):
                    return Verdict(healthy=True, warnings=() if linked else (_UNLINKED,))
            else:
                steady = None
            hopeless = watch.hopeless
            if hopeless or over >= (self._settle if steady is not None else 0):
                code, message = hopeless or watch.trouble or _UNSTEADY
                return Verdict(healthy=False, code=code, message=message)
            self._pace.sleep(POLL)

    def _restart(self) -> str:
        """Begin one; the start that was before.

        A service manager that does not answer says nothing about a version: it may be going down
        with the machine, and whoever comes after us goes on with the check. Raises: ServiceTrouble,
        Stopped.
        """
        asked = self._pace.monotonic()
        while True:
            former = None
            try:
                former = self._services.unit().invocation
                self._services.restart()
            except ServiceTrouble:
                refused = former is not None and self._answers()
                if refused or self._pace.monotonic() - asked >= UNANSWERED:
                    raise
            else:
                return former
            self._pace.sleep(POLL)

    def _answers(self) -> bool:
        try:
            self._services.unit()
        except ServiceTrouble:
            return False
        return True

    def _look(self, watch: _Watch) -> Mapping[str, Any] | None:
        try:
            unit = self._services.unit()
        except ServiceTrouble as error:
            watch.trouble = ("unit_failed", str(error))
            return None
        status = self._probe.status() if unit.active == "active" else None
        watch.see(unit, status)
        return status


_UNLINKED: Final = (
    "the agent was connected to its coordinator before, and is not yet: see `exclave-agent status`"
)
_UNSTEADY: Final = ("unsteady", "the agent came up, and did not stay so for the settling time")


class _Watch:
    """What was seen of one start so far."""

    def __init__(self, former: str, version: str, before: Before) -> None:
        self._former = former
        self._version = version
        self._before = before
        self._seen = ""
        self._fewest: int | None = None
        self.queued = False
        """The start that was asked for is not begun: it waits for other units, or for the end of
        the former one."""
        self.changed = False
        """The last look found another start than the one before."""
        self.trouble: tuple[str, str] | None = ("unit_failed", "the agent was not looked at yet")
        """Code and sentence of what is wrong now."""
        self.hopeless: tuple[str, str] | None = None
        """What will not pass."""

    def see(self, unit: UnitState, status: Mapping[str, Any] | None) -> None:
        self.changed = unit.invocation != self._seen
        self._seen = unit.invocation
        waits = unit.active == "inactive" or unit.invocation == self._former
        self.queued = unit.job and waits and unit.active != "activating"
        self.trouble = self._unit(unit) or self._status(status)
        # The restart by hand sets the counter back, at some moment: the lowest value counts.
        fewest = unit.restarts if self._fewest is None else min(self._fewest, unit.restarts)
        self._fewest = fewest
        if unit.restarts - fewest >= CRASHES:
            self.hopeless = ("crash_loop", f"the agent ended {CRASHES} times in a row")
        elif unit.active == "failed" and unit.invocation != self._former:
            self.hopeless = self.trouble

    def _unit(self, unit: UnitState) -> tuple[str, str] | None:
        if unit.active != "active":
            return ("unit_failed", f"the agent's service is {unit.active} ({unit.sub})")
        if unit.invocation == self._former:
            return ("unit_failed", "the agent's service has not been restarted")
        return None

    def _status(self, status: Mapping[str, Any] | None) -> tuple[str, str] | None:
        if status is None:
            return ("no_answer", "the agent does not answer on its control socket")
        if status.get("version") != self._version:
            return ("wrong_version", f"the agent that answers is not version {self._version}")
        now = Before.of(status)
        if self._before.release and now.release != self._before.release:
            if not now.release:
                return ("release_lost", "the release of before is not active")
            if now.release_version <= self._before.release_version:
                return ("release_lost", "an older release than before is active")
        return None
