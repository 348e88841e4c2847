"""Documents of kind Route: which models answer to a name, in which order, and what else may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from exclave_policy.clauses import read_condition
from exclave_policy.conditions import Condition
from exclave_policy.fields import MODEL, Fields
from exclave_policy.heading import metadata
from exclave_policy.kinds.numbers import AMOUNT, decimal, fraction
from exclave_policy.model import MODEL_ACTIONS
from exclave_policy.source import Node, Report, Scalar, Sequence

MAX_TARGETS = 16
"""Most targets of one route."""
MAX_MS = 3_600_000
MAX_ANSWER = 4096
"""Most characters of a canned answer."""
SPOKEN = frozenset({"chat", "complete"})
"""Actions whose answer is text, which a canned one can stand in for."""

CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target must keep to; None: no limit."""

    latency_ms: int | None = None
    """Skipped while the 95th percentile of its latency in the breaker's window is above."""
    cost_micro: int | None = None
    """Skipped when a million of its dearer tokens costs more: millionths of the unit."""
    currency: str = ""
    """Of `cost_micro`; a price in another currency does not keep to the limit."""
    confidence: float | None = None
    """An answer is not taken when the geometric mean of its tokens' probabilities is below."""


@dataclass(frozen=True, slots=True)
class Target:
    """One model of the release that a route may ask."""

    model: str
    when: Condition | None = None
    """None: for every request."""
    limits: Limits = Limits()
    timeout_ms: int | None = None
    """Most time of one attempt; None: the caller's own."""
    hedge_after_ms: int | None = None
    """The next target is asked as well when this one has not begun to answer by then; the first
    to begin goes on, the other is cancelled. None: never."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How much more than one attempt a decision may cost: extra attempts spend tokens of one
    bucket of the route."""

    ratio: float = 0.2
    """Tokens that each decision puts in: 0.2 is one extra attempt in five decisions."""
    burst: int = 10
    """Most tokens that the bucket holds; it starts full."""
    attempts: int = 2
    """Most attempts of one decision, the first included."""


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a target is given a rest."""

    window_seconds: int = 60
    min_requests: int = 10
    """Fewer outcomes in the window say nothing."""
    error_rate: float | None = 0.5
    latency_ms: int | None = None
    """Of the 95th percentile."""
    invalid_rate: float | None = None
    """Answers that failed their validator."""
    open_seconds: int = 30
    """Until one probe is let through."""


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What is answered when no target may or can; all empty: the decision is refused."""

    answer: str | None = None
    """A canned text."""
    person: str | None = None
    """Handed to a person; this text says so to the caller."""


@dataclass(frozen=True, slots=True)
class Route:
    """One document of kind Route, checked."""

    name: str
    """What callers say in `model`."""
    version: str
    description: str
    actions: frozenset[str]
    targets: tuple[Target, ...]
    """In order of preference. A decision asks each at most once: a model that is to be asked
    again after a failure is listed again."""
    retry: Retry = Retry()
    breaker: BreakerRule | None = BreakerRule()
    """None: targets are never given a rest."""
    otherwise: Otherwise = Otherwise()
    file: str = ""
    line: int = 0


def read_route(top: Fields, spec: Node, text: str, report: Report) -> Route | None:
    """Read a Route's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top, MODEL)
    known = ("actions", "targets", "retry", "breaker", "otherwise")
    fields = Fields(spec, "spec", report, known=known, required=known[:2])
    actions = frozenset(item.value for item in fields.names("actions", choices=MODEL_ACTIONS))
    route = Route(
        name=name,
        version=version,
        description=description,
        actions=actions,
        targets=_targets(fields, text),
        retry=_retry(fields),
        breaker=_breaker(fields),
        otherwise=_otherwise(fields, actions),
        file=report.file,
        line=top.node.line,
    )
    return route if len(report.problems) + report.dropped == before else None


def problems_of(routes: Mapping[str, Route], models: Mapping[str, frozenset[str]]) -> list[str]:
    """What is wrong with a pack's routes beside the models of its release; empty: nothing.
    `models`: the actions that each serves, by name."""
    found: list[str] = []
    for route in routes.values():
        if route.name in models:
            found.append(f"route {route.name} has the name of a model of the release")
        for target in route.targets:
            actions = models.get(target.model)
            if actions is None:
                found.append(f"route {route.name}: the release has no model {target.model}")
                continue
            lacking = ", ".join(sorted(route.actions - actions))
            if lacking:
                found.append(f"route {route.name}: model {target.model} does not serve {lacking}")
    return found


def _targets(fields: Fields, text: str) -> tuple[Target, ...]:
    node = fields.get("targets")
    if node is None:
        return ()
    if not isinstance(node, Sequence):
        fields.wrong(node, "targets", "expected a list of targets", "start each with '- model:'")
        return ()
    if not node.items:
        fields.wrong(node, "targets", "the list is empty", "a route needs at least one target")
    if len(node.items) > MAX_TARGETS:
        message = f"{len(node.items)} targets are too many"
        fields.wrong(node, "targets", message, f"at most {MAX_TARGETS}")
        return ()
    last = len(node.items) - 1
    return tuple(
        _target(item, f"spec.targets[{i}]", text, fields.report, last=i == last)
        for i, item in enumerate(node.items)
    )


def _target(node: Node, path: str, text: str, report: Report, *, last: bool) -> Target:
    known = ("model", "when", "limits", "timeout_ms", "hedge_after_ms")
    fields = Fields(node, path, report, known=known, required=known[:1])
    hedge = fields.get("hedge_after_ms")
    if hedge is not None and last:
        fix = "remove it, or add a target behind this one"
        fields.wrong(hedge, "hedge_after_ms", "the last target has nobody beside it", fix)
    return Target(
        model=fields.word("model", MODEL),
        when=read_condition(fields, "when", text),
        limits=_limits(fields),
        timeout_ms=fields.whole("timeout_ms", 1, MAX_MS),
        hedge_after_ms=fields.whole("hedge_after_ms", 1, MAX_MS),
    )


def _limits(fields: Fields) -> Limits:
    node = fields.get("limits")
    if node is None:
        return Limits()
    known = ("max_latency_ms", "max_cost", "currency", "min_confidence")
    inner = Fields(node, fields.at("limits"), fields.report, known=known)
    cost, currency = inner.get("max_cost"), inner.get("currency")
    if (cost is None) != (currency is None):
        fix = "give both: max_cost is an amount of that currency for a million tokens"
        inner.report.add(node, inner.path, "max_cost and currency belong together", fix)
    amount = decimal(inner, "max_cost", AMOUNT, "a decimal number in quotes, like '0.60'")
    return Limits(
        latency_ms=inner.whole("max_latency_ms", 1, MAX_MS),
        cost_micro=None if amount is None else int(amount * 1_000_000),
        currency=_currency(inner),
        confidence=fraction(inner, "min_confidence"),
    )


def _retry(fields: Fields) -> Retry:
    node = fields.get("retry")
    if node is None:
        return Retry()
    inner = Fields(node, "spec.retry", fields.report, known=("ratio", "burst", "attempts"))
    ratio = fraction(inner, "ratio")
    burst = inner.whole("burst", 0, 10_000)
    attempts = inner.whole("attempts", 1, MAX_TARGETS)
    usual = Retry()
    return Retry(
        usual.ratio if ratio is None else ratio,
        usual.burst if burst is None else burst,
        usual.attempts if attempts is None else attempts,
    )


def _breaker(fields: Fields) -> BreakerRule:
    node = fields.get("breaker")
    usual = BreakerRule()
    if node is None:
        return usual
    known = (
        "window_seconds",
        "min_requests",
        "error_rate",
        "latency_ms",
        "invalid_rate",
        "open_seconds",
    )
    inner = Fields(node, "spec.breaker", fields.report, known=known)
    error_rate = fraction(inner, "error_rate")
    return BreakerRule(
        window_seconds=inner.whole("window_seconds", 1, 3600) or usual.window_seconds,
        min_requests=inner.whole("min_requests", 1, 1000) or usual.min_requests,
        error_rate=usual.error_rate if error_rate is None else error_rate,
        latency_ms=inner.whole("latency_ms", 1, MAX_MS),
        invalid_rate=fraction(inner, "invalid_rate"),
        open_seconds=inner.whole("open_seconds", 1, 3600) or usual.open_seconds,
    )


def _otherwise(fields: Fields, actions: frozenset[str]) -> Otherwise:
    node = fields.get("otherwise")
    if node is None:
        return Otherwise()
    if isinstance(node, Scalar) and node.value == "refuse":
        return Otherwise()
    if isinstance(node, Scalar):
        fix = "write refuse, {answer: ...} or {person: ...}"
        fields.wrong(node, "otherwise", "not a way to answer", fix)
        return Otherwise()
    inner = Fields(node, "spec.otherwise", fields.report, known=("answer", "person"))
    given = [name for name in ("answer", "person") if inner.get(name) is not None]
    if len(given) != 1:
        fix = "give one of answer and person, or write refuse"
        fields.wrong(node, "otherwise", "exactly one answer is needed", fix)
    if actions - SPOKEN:
        fix = "keep actions to chat and complete, or write refuse"
        fields.wrong(node, "otherwise", "only chat and complete can be answered in words", fix)
    for name in given:
        if inner.text(name, limit=MAX_ANSWER, default="-") == "":
            inner.wrong(node, name, "the text is empty", "say something to the caller")
    return Otherwise(
        answer=inner.text("answer", limit=MAX_ANSWER) if "answer" in given else None,
        person=inner.text("person", limit=MAX_ANSWER) if "person" in given else None,
    )


def _currency(fields: Fields) -> str:
    node = fields.get("currency")
    if node is None:
        return ""
    if (
        not isinstance(node, Scalar)
        or node.kind != "string"
        or CURRENCY.fullmatch(node.value) is None
    ):
        fields.wrong(node, "currency", "not a currency", "three capitals of ISO 4217, like EUR")
        return ""
    return node.value
