"""The real time, and the wish of the service manager that we end."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from exclave_agent.system import SystemClock
from exclave_agent.upgrade.ports import Stopped


class SystemPace:
    """A `ports.Pace`.

    A signal to end is remembered, and obeyed where the engine sleeps: never while a package
    manager runs.
    """

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._told = threading.Event()

    def listen(self) -> None:
        """Remember SIGTERM, SIGINT and SIGHUP from now on; for the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)

    def now(self) -> int:
        return self._clock.now_ns() // 1_000_000_000

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        if self._told.wait(seconds):
            raise Stopped

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        self._told.set()
