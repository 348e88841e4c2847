"""The two gRPC ports: which services each has, and their TLS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exclave_coordinator.api.intercept import Gate
from exclave_coordinator.config import join_endpoint, split_endpoint
from exclave_coordinator.errors import SetupError
from exclave_coordinator.fleet.certificates import Authority, private_pem, to_pem
from exclave_coordinator.ports import Clock
from exclave_coordinator.telemetry.metrics import Metrics
from exclave_protocol.pb import (
    admin_pb2_grpc,
    artifact_pb2_grpc,
    audit_pb2_grpc,
    enrollment_pb2_grpc,
    fleet_pb2_grpc,
)
from exclave_protocol.wire import JOIN_OPTIONS, SERVER_OPTIONS

SERVICES: Final = (
    "exclave.v1.Identity",
    "exclave.v1.Fleet",
    "exclave.v1.Artifact",
    "exclave.v1.Audit",
    "exclave.v1.Admin",
)
"""On the mTLS port."""
JOIN_SERVICES: Final = ("exclave.v1.Enrollment",)
"""On the enrollment port."""
MAX_JOINING: Final = 256
"""Most calls at once on the enrollment port; further ones are told to come back."""


@dataclass(frozen=True, slots=True)
class Services:
    """The servicers of both ports."""

    enrollment: enrollment_pb2_grpc.EnrollmentServicer
    identity: enrollment_pb2_grpc.IdentityServicer
    fleet: fleet_pb2_grpc.FleetServicer
    artifact: artifact_pb2_grpc.ArtifactServicer
    audit: audit_pb2_grpc.AuditServicer
    admin: admin_pb2_grpc.AdminServicer


class ServerCertificate:
    """Short-lived, made by our own CA, replaced at half its life without a restart."""

    def __init__(
        self,
        authority: Authority,
        names: tuple[str, ...],
        ttl: int,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`ttl`: seconds one certificate holds."""
        self._authority = authority
        self._names = names
        self._ttl = ttl
        self._clock = clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._due = 0
        self._current: Any = None

    def current(self) -> Any:
        """The certificate to serve now. Any thread: gRPC asks from its own."""
        with self._lock:
            if self._current is None or self._clock.now() >= self._due:
                self._current = self._issue()
                self._due = self._clock.now() + self._ttl // 2
            return self._current

    def fetcher(self) -> Callable[[], Any]:
        """For one server: called at every handshake, answers None while nothing changed."""
        served = self.current()

        def fetch() -> Any:
            nonlocal served
            current = self.current()
            if current is served:
                return None
            served = current
            return current

        return fetch

    def _issue(self) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._authority.issue_server(key.public_key(), self._names, self._ttl)
        # The root travels along: a joining agent, which knows only its digest, finds it here.
        chain = to_pem(issued.chain) + self._authority.pem
        self._metrics.certificates.labels("server").inc()
        self._metrics.server_expires.set(issued.not_after)
        return grpc.ssl_server_certificate_configuration(
            [(private_pem(key), chain)], self._authority.pem
        )


class Ports:
    """Both gRPC servers."""

    def __init__(self, services: Services, gate: Gate, certificate: ServerCertificate) -> None:
        self._certificate = certificate
        self._session = grpc.aio.server(interceptors=[gate], options=SERVER_OPTIONS)
        self._join = grpc.aio.server(
            interceptors=[gate], options=JOIN_OPTIONS, maximum_concurrent_rpcs=MAX_JOINING
        )
        self._health = health.aio.HealthServicer()
        _register(services, self._session, self._join)
        for server in (self._session, self._join):
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._session)

    async def start(self, listen: str, enroll_listen: str) -> tuple[int, int]:
        """Listen; returns the two ports. Raises: SetupError (an address is taken)."""
        bound = (
            self._bind(self._session, listen, "listen", mutual=True),
            self._bind(self._join, enroll_listen, "enroll_listen", mutual=False),
        )
        await self._session.start()
        await self._join.start()
        for name in ("", *SERVICES, *JOIN_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def quiesce(self) -> None:
        """Tell health watchers that we are about to stop."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Take no new calls, give those under way `grace` seconds. Idempotent."""
        await self._session.stop(grace)
        await self._join.stop(grace)

    def _bind(self, server: Any, endpoint: str, setting: str, *, mutual: bool) -> int:
        credentials = grpc.dynamic_ssl_server_credentials(
            self._certificate.current(),
            self._certificate.fetcher(),
            require_client_authentication=mutual,
        )
        host, port = split_endpoint(endpoint, setting)
        try:
            return int(server.add_secure_port(join_endpoint(host, port), credentials))
        except RuntimeError as error:
            raise SetupError(
                f"{setting}: cannot listen on {endpoint}: the port is taken or the address is "
                "not this machine's; change it in coordinator.toml",
                code="port",
            ) from error


def _register(services: Services, session: Any, join: Any) -> None:
    # Generated functions carry no annotations.
    add: list[tuple[Any, Any, Any]] = [
        (enrollment_pb2_grpc.add_EnrollmentServicer_to_server, services.enrollment, join),
        (enrollment_pb2_grpc.add_IdentityServicer_to_server, services.identity, session),
        (fleet_pb2_grpc.add_FleetServicer_to_server, services.fleet, session),
        (artifact_pb2_grpc.add_ArtifactServicer_to_server, services.artifact, session),
        (audit_pb2_grpc.add_AuditServicer_to_server, services.audit, session),
        (admin_pb2_grpc.add_AdminServicer_to_server, services.admin, session),
    ]
    for function, servicer, server in add:
        function(servicer, server)
