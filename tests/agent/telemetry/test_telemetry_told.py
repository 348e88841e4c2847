"""What the policy lets an agent tell: counts blunted or none, traces or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.ports import NoSpan, Span
from exclave_agent.telemetry.told import PermittedTracer, told
from exclave_policy.kinds.telemetry import Telemetry


def document(**fields: object) -> Telemetry:
    return Telemetry("told", "1", "", **fields)  # type: ignore[arg-type]  # as each test says


def test_without_a_document_everything_is_told() -> None:
    assert told({"answered": 7}, None) == {"answered": 7}


def test_without_permission_nothing_is() -> None:
    assert told({"answered": 7}, document(counts=False)) is None


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 10**6))
def test_rare_events_are_zero_and_the_others_rounded_down(
    total: int, minimum: int, step: int
) -> None:
    blunted = told({"denied": total}, document(minimum=minimum, round_to=step))
    assert blunted is not None
    (found,) = blunted.values()
    assert found <= total and found % step == 0
    assert found == 0 if total < minimum else found > total - step


class Watched:
    """A tracer that counts."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    @contextmanager
    def span(self, name: str) -> Iterator[Span]:
        """See `ports.Tracer`."""
        self.spans.append(name)
        yield NoSpan()


def test_spans_are_made_while_the_policy_permits_them() -> None:
    inner, now = Watched(), [document(traces=False)]
    tracer = PermittedTracer(inner, lambda: now[0])
    with tracer.span("decide") as span:
        span.set("exclave.action", "chat")
    assert inner.spans == []
    now[0] = document()
    with tracer.span("decide"):
        pass
    assert inner.spans == ["decide"]
