"""What may leave of the counts and the traces, as the policy's Telemetry document says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from exclave_agent.ports import NoTracer, Span, Tracer
from exclave_policy.kinds.telemetry import Telemetry

Obeyed = Callable[[], Telemetry | None]
"""The document of the release that answers now; None: nothing is said, so all may leave."""


def told(totals: Mapping[str, int], telemetry: Telemetry | None) -> dict[str, int] | None:
    """The totals as they may be told: rare events as 0, the others rounded down; None: not at
    all."""
    if telemetry is None:
        return dict(totals)
    if not telemetry.counts:
        return None
    return {
        name: 0 if total < telemetry.minimum else total - total % telemetry.round_to
        for name, total in totals.items()
    }


class PermittedTracer:
    """A `ports.Tracer` that makes no span while the policy permits none."""

    def __init__(self, tracer: Tracer, telemetry: Obeyed) -> None:
        self._tracer = tracer
        self._telemetry = telemetry
        self._silent = NoTracer()

    def span(self, name: str) -> AbstractContextManager[Span]:
        """See `ports.Tracer`."""
        telemetry = self._telemetry()
        permitted = telemetry is None or telemetry.traces
        return self._tracer.span(name) if permitted else self._silent.span(name)
