"""Running totals since boot, for the session's counts and the HEARTBEAT leaf: numbers only."""

from __future__ import annotations

from collections.abc import Callable

from exclave_agent.ports import Decided
from exclave_agent.telemetry.metrics import Metrics


class Tally:
    """Counts each decision here and in the Prometheus metrics; tells when something changed."""

    def __init__(self, metrics: Metrics, changed: Callable[[], None]) -> None:
        """`changed` is called after every decision, on the event loop: it must be quick."""
        self._metrics = metrics
        self._changed = changed
        self.answered = 0
        self.denied = 0
        self.failed = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.worker_crashes = 0

    def decided(self, decided: Decided) -> None:
        """Count one decision. Everything that was neither answered nor denied is a failure."""
        self._metrics.decided(decided)
        if decided.outcome == "answered":
            self.answered += 1
        elif decided.outcome == "denied":
            self.denied += 1
        else:
            self.failed += 1
        self.tokens_in += decided.tokens_in
        self.tokens_out += decided.tokens_out
        self._changed()

    def crashed(self) -> None:
        """Count a worker process that died."""
        self.worker_crashes += 1
        self._changed()

    def totals(self) -> dict[str, int]:
        """All counts by name (the fields of exclave.v1.Counts)."""
        return {
            "answered": self.answered,
            "denied": self.denied,
            "failed": self.failed,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "worker_crashes": self.worker_crashes,
        }
