"""What the coordinator says of itself to Prometheus: counts and gauges, never contents."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Metrics:
    """One registry per coordinator: tests run several in one process."""

    def __init__(self, sessions: Callable[[], int], agents: Callable[[], int]) -> None:
        """The two callables are asked at every scrape."""
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "exclave_coordinator_calls",
            "Calls by method and gRPC status.",
            ["method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "exclave_coordinator_call_seconds",
            "Duration of unary calls.",
            ["method"],
            registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
        )
        self.leaves = Counter(
            "exclave_coordinator_leaves",
            "Audit leaves accepted (repeats included).",
            registry=self.registry,
        )
        self.contradictions = Counter(
            "exclave_coordinator_contradictions",
            "Evidence kept against agents and outside logs, by kind (leaf, root, proof, fork).",
            ["kind"],
            registry=self.registry,
        )
        self.certificates = Counter(
            "exclave_coordinator_certificates",
            "Certificates issued, by what for (enroll, renew, recover, operator, server).",
            ["purpose"],
            registry=self.registry,
        )
        self.server_expires = Gauge(
            "exclave_coordinator_server_certificate_expires_seconds",
            "When the server's certificate ends, seconds since the epoch.",
            registry=self.registry,
        )
        self.requests = Counter(
            "exclave_coordinator_witness_requests",
            "Requests at the witness's HTTP port by status.",
            ["status"],
            registry=self.registry,
        )
        self.submissions = Counter(
            "exclave_coordinator_submissions",
            "Requests to outside witnesses by outcome (cosigned, or why not).",
            ["witness", "outcome"],
            registry=self.registry,
        )
        self.uncosigned = Gauge(
            "exclave_coordinator_uncosigned_leaves",
            "Leaves of an own log that an outside witness has not cosigned.",
            ["log", "witness"],
            registry=self.registry,
        )
        self.outside_cosigned = Gauge(
            "exclave_coordinator_outside_cosigned_seconds",
            "When an outside witness last cosigned an own log, seconds since the epoch; 0: never.",
            ["log", "witness"],
            registry=self.registry,
        )
        self.registry.register(_Live(sessions, agents))

    def outcome(self, witness: str, outcome: str) -> None:
        """See `audit.submit.Told`."""
        self.submissions.labels(witness, outcome).inc()

    def lag(self, log: str, witness: str, leaves: int, cosigned_at: int) -> None:
        """See `audit.submit.Told`."""
        self.uncosigned.labels(log, witness).set(leaves)
        self.outside_cosigned.labels(log, witness).set(cosigned_at)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Answer scrapes from a thread; returns the port and how to stop. Raises: OSError."""
        server, thread = start_http_server(port, host, registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return int(server.server_port), stop


class _Live(Collector):
    def __init__(self, sessions: Callable[[], int], agents: Callable[[], int]) -> None:
        self._sessions = sessions
        self._agents = agents

    def collect(self) -> list[GaugeMetricFamily]:
        """Asked by the registry at every scrape."""
        return [
            GaugeMetricFamily(
                "exclave_coordinator_sessions", "Agents connected.", value=self._sessions()
            ),
            GaugeMetricFamily(
                "exclave_coordinator_agents", "Agents known, in any state.", value=self._agents()
            ),
        ]
