"""Counters and histograms of the agent, in a registry of their own; Prometheus stays in here."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """What the agent counts. Labels come from the signed release and from fixed sets, never
    from a caller's text, so that nobody can grow the number of series."""

    content_type: str = CONTENT_TYPE_LATEST
    """Of what `render` returns."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """Where other rooms may add collectors of their own."""
        self._decisions = Counter(
            "exclave_decisions",
            "Decisions by how they ended; unrecorded: refused because no record could be written",
            ("action", "model", "outcome"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "exclave_decision_seconds",
            "From the request's arrival in the decision path to its result being ready to record",
            ("action", "model"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "exclave_tokens",
            "Tokens of finished answers; direction: in (prompt) or out (answer)",
            ("model", "direction"),
            registry=self.registry,
        )
        # Looking up a labelled child takes a lock and several tuples: too dear per decision.
        self._decision = lru_cache(1024)(self._decisions.labels)
        self._second = lru_cache(1024)(self._seconds.labels)
        self._token = lru_cache(1024)(self._tokens.labels)

    def decided(
        self,
        *,
        action: str,
        model: str,
        outcome: str,
        seconds: float,
        tokens_in: int,
        tokens_out: int,
    ) -> None:
        """Count one decision."""
        self._decision(action, model, outcome).inc()
        self._second(action, model).observe(seconds)
        if tokens_in:
            self._token(model, "in").inc(tokens_in)
        if tokens_out:
            self._token(model, "out").inc(tokens_out)

    def render(self) -> bytes:
        """The exposition text, of type `content_type`."""
        return generate_latest(self.registry)
