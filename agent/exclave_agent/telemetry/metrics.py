"""Counters and histograms of the agent, in a registry of their own; Prometheus stays in here.

docs/metrics.md describes every series; a test holds the two together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exclave_agent.ports import Decided
from exclave_agent.telemetry.quantiles import Quantiles
from exclave_agent.telemetry.views import Views, families

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 5)

FIGURES = ("decision_seconds", "queue_seconds", "first_token_seconds", "inter_token_seconds")
"""What is kept as quantiles, for each route."""


class Metrics:
    """What the agent counts. Labels come from signed documents and from fixed sets, never from
    a caller's text, so that nobody can grow the number of series."""

    content_type: str = CONTENT_TYPE_LATEST
    """Of what `render` returns."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        """Where other rooms may add collectors of their own."""
        registry = self.registry
        self._decisions = Counter(
            "exclave_decisions",
            "Decisions by how they ended; unrecorded: refused because no record could be written",
            ("action", "model", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "exclave_decision_seconds",
            "From the request's arrival in the decision path to its result being ready to record",
            ("action", "model"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "exclave_tokens",
            "Tokens of finished answers; direction: in (prompt), cached (of these, not computed "
            "again) or out (answer)",
            ("model", "direction"),
            registry=registry,
        )
        self._queue, self._first, self._inter = (
            Histogram(name, text, ("route", "model"), buckets=buckets, registry=registry)
            for name, text, buckets in (
                ("exclave_queue_seconds", "Waiting for a slot of the model", _SECONDS),
                (
                    "exclave_first_token_seconds",
                    "From arrival in the decision path until the answer could begin to leave",
                    _SECONDS,
                ),
                ("exclave_inter_token_seconds", "Between two tokens of an answer", _TOKEN_SECONDS),
            )
        )
        self._cached = Counter(
            "exclave_completion_cache_hits",
            "Answers from the completion cache; kind: exact or semantic",
            ("model", "kind"),
            registry=registry,
        )
        self._degraded = Counter(
            "exclave_degraded",
            "Answers that were not the first choice's; how: fallback, canned or person",
            ("route", "how"),
            registry=registry,
        )
        self._attempts = Counter(
            "exclave_attempts",
            "Models that were asked, retries and fallbacks included",
            ("route",),
            registry=registry,
        )
        self._cost = Counter(
            "exclave_cost", "What answers cost", ("route", "model", "currency"), registry=registry
        )
        self._drafts = Counter(
            "exclave_drafted_tokens",
            "Tokens guessed ahead; result: accepted or rejected by the model",
            ("model", "result"),
            registry=registry,
        )
        self._preempted = Counter(
            "exclave_preemptions",
            "How often an answer gave up its slot to somebody more urgent",
            ("model",),
            registry=registry,
        )
        self._lately = _Lately(monotonic)
        registry.register(self._lately)
        # Looking up a labelled child takes a lock and several tuples: too dear per decision.
        self._of_decision = lru_cache(1024)(self._decisions.labels)
        self._of_second = lru_cache(1024)(self._seconds.labels)
        self._of_token = lru_cache(1024)(self._tokens.labels)
        self._of_queue = lru_cache(1024)(self._queue.labels)
        self._of_first = lru_cache(1024)(self._first.labels)
        self._of_inter = lru_cache(1024)(self._inter.labels)
        self._of_attempt = lru_cache(1024)(self._attempts.labels)

    def watch(self, views: Views) -> None:
        """Show what other rooms hold now, read at each `render`. Once."""
        self.registry.register(_Views(views))

    def decided(self, decided: Decided) -> None:
        """Count one decision."""
        action, model = decided.action, decided.model
        route = decided.route or model
        self._of_decision(action, model, decided.outcome).inc()
        self._of_second(action, model).observe(decided.seconds)
        self._of_attempt(route).inc(decided.attempts)
        lately = self._lately.of(route)
        lately["decision_seconds"].observe(decided.seconds)
        for direction, tokens in (
            ("in", decided.tokens_in),
            ("cached", decided.cached_tokens),
            ("out", decided.tokens_out),
        ):
            if tokens:
                self._of_token(model, direction).inc(tokens)
        if decided.first_seconds is not None and decided.tokens_out:
            self._of_first(route, model).observe(decided.first_seconds)
            lately["first_token_seconds"].observe(decided.first_seconds)
        self._timed(decided, route, lately)
        self._special(decided, route)
        answered = int(decided.outcome == "answered")
        self._lately.spent(route, answered, decided.cost_micro, decided.currency)

    def _timed(self, decided: Decided, route: str, lately: dict[str, Quantiles]) -> None:
        timing = decided.timing
        if timing.queued_us or timing.prefill_us:
            self._of_queue(route, decided.model).observe(timing.queued_us / 1e6)
            lately["queue_seconds"].observe(timing.queued_us / 1e6)
        if timing.decode_us and decided.tokens_out > 1:
            each = timing.decode_us / 1e6 / (decided.tokens_out - 1)
            self._of_inter(route, decided.model).observe(each)
            lately["inter_token_seconds"].observe(each)

    def _special(self, decided: Decided, route: str) -> None:
        """What most decisions do not have."""
        model, timing = decided.model, decided.timing
        if decided.cache:
            self._cached.labels(model, decided.cache).inc()
        if decided.degraded:
            self._degraded.labels(route, decided.degraded).inc()
        if decided.cost_micro:
            self._cost.labels(route, model, decided.currency).inc(decided.cost_micro / 1e6)
        if timing.drafted:
            self._drafts.labels(model, "accepted").inc(timing.accepted)
            self._drafts.labels(model, "rejected").inc(timing.drafted - timing.accepted)
        if timing.preemptions:
            self._preempted.labels(model).inc(timing.preemptions)

    def render(self) -> bytes:
        """The exposition text, of type `content_type`."""
        return generate_latest(self.registry)


class _Lately(Collector):
    """Quantiles by route over the last minutes, and what a thousand answers cost since start."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._routes: dict[str, dict[str, Quantiles]] = {}
        self._costs: dict[tuple[str, str], int] = {}
        self._answers: dict[str, int] = {}

    def of(self, route: str) -> dict[str, Quantiles]:
        """The figures of one route."""
        found = self._routes.get(route)
        if found is None:
            found = {name: Quantiles(self._monotonic) for name in FIGURES}
            self._routes[route] = found
        return found

    def spent(self, route: str, answers: int, cost_micro: int, currency: str) -> None:
        """More answers, or none, and what that cost."""
        self._answers[route] = self._answers.get(route, 0) + answers
        if currency:
            key = (route, currency)
            self._costs[key] = self._costs.get(key, 0) + cost_micro

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's `Collector`."""
        for name in FIGURES:
            gauge = GaugeMetricFamily(
                f"exclave_recent_{name}",
                f"Quantiles of exclave_{name} over the last 5 minutes, by route",
                labels=("route", "quantile"),
            )
            for route, figures in self._routes.items():
                for quantile, value in figures[name].read().items():
                    gauge.add_metric((route, str(quantile)), value)
            yield gauge
        yield self._thousand()

    def _thousand(self) -> Metric:
        gauge = GaugeMetricFamily(
            "exclave_cost_per_thousand",
            "What a thousand answered interactions cost since the start, with what others cost",
            labels=("route", "currency"),
        )
        for (route, currency), micro in self._costs.items():
            if self._answers[route]:
                gauge.add_metric((route, currency), micro / 1e3 / self._answers[route])
        return gauge


class _Views(Collector):
    """What other rooms hold now."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        yield from families(self._views)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the rooms, which may not be open yet."""
        return []
