"""Builds the rooms, starts them in order, runs their chores in one task group, stops them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from exclave_coordinator import config
from exclave_coordinator.api.admin import AdminService
from exclave_coordinator.api.artifact import ArtifactService
from exclave_coordinator.api.audit import AuditService
from exclave_coordinator.api.auth import Gatekeeper
from exclave_coordinator.api.enrollment import Answers, EnrollmentService, IdentityService
from exclave_coordinator.api.fleet import FleetService
from exclave_coordinator.api.intercept import Gate
from exclave_coordinator.api.parts import Endpoints, Parts
from exclave_coordinator.api.record import Recorder
from exclave_coordinator.api.server import Ports, ServerCertificate, Services
from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.export import Exporter
from exclave_coordinator.audit.oplog import OperatorLog
from exclave_coordinator.audit.receive import Receiver
from exclave_coordinator.audit.submit import Submitter
from exclave_coordinator.audit.terms import Fence
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.backup.resume import resume
from exclave_coordinator.config import Settings
from exclave_coordinator.errors import CoordinatorError, SetupError
from exclave_coordinator.fleet.director import Director
from exclave_coordinator.fleet.enroll import Enrollment
from exclave_coordinator.fleet.registry import Registry
from exclave_coordinator.fleet.sessions import Sessions
from exclave_coordinator.home import Home, hold, write_endpoints
from exclave_coordinator.ports import Clock, Ids, Rng
from exclave_coordinator.releases.publish import Publisher
from exclave_coordinator.releases.rollout import Rollouts
from exclave_coordinator.storage.artifacts import ObjectArtifacts
from exclave_coordinator.storage.database import Database
from exclave_coordinator.storage.files import FileTenantKeys, load_ed25519
from exclave_coordinator.storage.migrate import migrate
from exclave_coordinator.telemetry.metrics import Metrics
from exclave_coordinator.witness_ports import OutsideWitness
from exclave_protocol.checkpoint import CosignerKey, cosigned_origin, operator_origin
from exclave_protocol.note import SigningKey

log = logging.getLogger(__name__)

WITNESS_CONNECTIONS = 128
"""Most connections at the witness's HTTP interface, and most requests at once."""
REFRESH_SECONDS = 600.0
"""How often the age of snapshot and timestamp is looked at."""


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator that answers."""

    session: str
    enroll: str
    metrics: str
    """host:port each, as others dial them."""
    witness: str
    """host:port of the witness's HTTP interface; empty: it has none."""
    ports: tuple[tuple[str, int], ...]
    """Session and enrollment as this machine reaches them."""
    parts: Parts


@asynccontextmanager
async def running(
    home: Home, settings: Settings, *, version: str, clock: Clock, rng: Rng, ids: Ids
) -> AsyncIterator[Running]:
    """A coordinator for as long as the block runs.

    Order: lock, migrations, database, rooms, metrics, gRPC, endpoints file. It stops in
    reverse: sessions are told to come back later, calls under way finish, observations are
    stored, and only then the database closes.

    Raises: SetupError, StorageForeign, StorageError. The first failure of a chore ends the
    block with it.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(hold(home))
        await asyncio.to_thread(migrate, home.database)
        store = Database(home.database)
        stack.callback(store.close)
        workers = ThreadPoolExecutor(2, thread_name_prefix="work")
        stack.callback(workers.shutdown)
        parts, services, gate, metrics = _build(
            home, settings, store, workers, version=version, clock=clock, rng=rng, ids=ids
        )
        await resume(home, store, parts.operators, settings.trust_domain)
        if freed := await asyncio.to_thread(ObjectArtifacts(home.artifacts).sweep):
            log.info("removed %d bytes of uploads that a crash broke off", freed)
        parts.registry.load(await store.read(lambda tx: tx.agents.all()))
        await _refresh(parts.publisher)
        metrics_port = _serve_metrics(metrics, settings, stack)
        certificate = ServerCertificate(
            parts.authority,
            settings.server_names,
            settings.server_certificate_seconds,
            clock=clock,
            metrics=metrics,
        )
        ports = Ports(services, gate, certificate)
        # Registered before start: a port that is taken must not leave the other one open.
        stack.push_async_callback(ports.stop, 1.0)
        session, enroll = await ports.start(settings.listen, settings.enroll_listen)
        parts.endpoints.session = config.join_endpoint(settings.dial_host, session)
        parts.endpoints.enroll = config.join_endpoint(settings.dial_host, enroll)
        metrics_host = config.split_endpoint(settings.metrics_listen)[0]
        endpoints = {
            "session": parts.endpoints.session,
            "enroll": parts.endpoints.enroll,
            "metrics": config.join_endpoint(metrics_host, metrics_port),
        }
        if settings.witness_listen:
            endpoints["witness"] = await _serve_witness(parts, settings, stack)
        witnesses = await _reach_witnesses(settings, stack)
        write_endpoints(home, endpoints)
        stack.callback((home.run / "endpoints.json").unlink, missing_ok=True)
        async with asyncio.TaskGroup() as group:
            chores = [
                group.create_task(parts.sessions.collect(), name="collect"),
                group.create_task(parts.sessions.sweep(), name="sweep"),
                group.create_task(_keep_fresh(parts.publisher, clock), name="refresh"),
                *(
                    group.create_task(parts.submitter.run(each), name=f"submit to {each.key.name}")
                    for each in witnesses
                ),
            ]
            try:
                yield Running(
                    endpoints["session"],
                    endpoints["enroll"],
                    endpoints["metrics"],
                    endpoints.get("witness", ""),
                    (
                        (config.local_host(settings.listen), session),
                        (config.local_host(settings.enroll_listen), enroll),
                    ),
                    parts,
                )
            finally:
                await ports.quiesce()
                await parts.sessions.drain(settings.drain_seconds)
                for chore in chores:
                    chore.cancel()


def _build(
    home: Home,
    settings: Settings,
    store: Database,
    workers: ThreadPoolExecutor,
    *,
    version: str,
    clock: Clock,
    rng: Rng,
    ids: Ids,
) -> tuple[Parts, Services, Gate, Metrics]:
    """Every room, wired. Nothing runs yet. Raises: SetupError."""
    domain = settings.trust_domain
    authority = home.authority(settings, clock, rng)
    registry = Registry()
    sessions = Sessions(store, registry, limit=settings.max_sessions, clock=clock, rng=rng)
    metrics = Metrics(sessions.__len__, registry.__len__)
    cosigner = CosignerKey(f"{domain}/witness", _key(home, "witness"))
    # Both logs are the coordinator's word: one key, under the name of each.
    own = _key(home, "operators")
    operators = OperatorLog(SigningKey(operator_origin(domain), own), version, clock=clock)
    cosigned = CosignedLog(
        SigningKey(cosigned_origin(domain), own), cosigner.vkey, version, clock=clock
    )

    def alarm(kind: str) -> None:
        metrics.contradictions.labels(kind).inc()

    fence = Fence(store, domain, _fencing_secret(own), clock=clock, alarm=alarm)
    witness = Witness(
        store,
        domain,
        cosigner,
        cosigned,
        outside=config.outside_logs(settings),
        clock=clock,
        alarm=alarm,
    )
    director = Director(
        _key(home, "director"), domain, ttl=settings.assignment_seconds, clock=clock
    )
    artifacts = ObjectArtifacts(home.artifacts)
    keys = FileTenantKeys(home.keys, rng)
    parts = Parts(
        settings=settings,
        endpoints=Endpoints(),
        store=store,
        artifacts=artifacts,
        keys=keys,
        authority=authority,
        enrollment=Enrollment(
            store,
            registry,
            authority,
            agent_ttl=settings.agent_certificate_seconds,
            clock=clock,
            rng=rng,
            ids=ids,
        ),
        registry=registry,
        sessions=sessions,
        publisher=Publisher(store, artifacts, keys, workers=workers, clock=clock),
        rollouts=Rollouts(clock=clock, ids=ids),
        witness=witness,
        operators=operators,
        cosigned=cosigned,
        submitter=Submitter(
            store,
            (operators, cosigned),
            seconds=settings.outside_witness_seconds,
            clock=clock,
            rng=rng,
            told=metrics,
        ),
        recorder=Recorder(store, operators),
        exporter=Exporter(witness, operators, domain, clock=clock, spool=home.run),
        metrics=metrics,
        clock=clock,
        ids=ids,
        spool=home.run,
    )
    answers = Answers(
        domain,
        authority,
        endpoints=parts.endpoints,
        witness_vkey=witness.vkey,
        director_key=director.public_key,
        metrics=metrics,
    )
    services = Services(
        enrollment=EnrollmentService(parts.enrollment, answers),
        identity=IdentityService(parts.enrollment, answers),
        fleet=FleetService(
            sessions,
            registry,
            director,
            counts_interval=settings.counts_interval_seconds,
            clock=clock,
        ),
        artifact=ArtifactService(store, artifacts),
        audit=AuditService(
            Receiver(store, domain, fence, workers=workers, clock=clock), fence, witness, metrics
        ),
        admin=AdminService(parts),
    )
    gate = Gate(Gatekeeper(registry, domain, clock), metrics, clock, parts.recorder.denied)
    return parts, services, gate, metrics


def _key(home: Home, name: str) -> Ed25519PrivateKey:
    return load_ed25519(home.key(name))


def _fencing_secret(own: Ed25519PrivateKey) -> bytes:
    """Of a key that every backup has: tokens must be known again after a restore."""
    return HKDF(SHA256(), 32, None, b"exclave fencing token v1").derive(own.private_bytes_raw())


def _serve_metrics(metrics: Metrics, settings: Settings, stack: AsyncExitStack) -> int:
    host, port = config.split_endpoint(settings.metrics_listen, "metrics_listen")
    try:
        bound, stop = metrics.serve(host, port)
    except OSError as error:
        raise SetupError(
            f"metrics_listen: cannot listen on {settings.metrics_listen} ({error.strerror}): "
            "change it in coordinator.toml",
            code="port",
        ) from error
    stack.callback(stop)
    return bound


async def _serve_witness(parts: Parts, settings: Settings, stack: AsyncExitStack) -> str:
    """The witness's HTTP interface, until the stack ends; returns host:port."""
    # Here, not above: most coordinators serve no HTTP.
    from exclave_coordinator.api.tlog_witness import WitnessApi
    from exclave_http.bounded import bind_tcp, served

    host, port = config.split_endpoint(settings.witness_listen, "witness_listen")
    try:
        sock = bind_tcp(host, port)
    except OSError as error:
        raise SetupError(
            f"witness_listen: cannot listen on {settings.witness_listen} ({error.strerror}): "
            "change it in coordinator.toml",
            code="port",
        ) from error
    stack.callback(sock.close)
    api = WitnessApi(parts.witness, lambda status: parts.metrics.requests.labels(status).inc())
    await stack.enter_async_context(
        served(api.app, [sock], max_connections=WITNESS_CONNECTIONS, stop_grace=1.0)
    )
    return config.join_endpoint(host, sock.getsockname()[1])


async def _reach_witnesses(settings: Settings, stack: AsyncExitStack) -> Sequence[OutsideWitness]:
    """The outside witnesses that are to cosign our own logs, until the stack ends."""
    if not settings.outside_witnesses:
        return ()
    from exclave_coordinator.outside import reaching  # here: an HTTP client is long to import

    return await stack.enter_async_context(reaching(config.outside_witnesses(settings)))


async def _keep_fresh(publisher: Publisher, clock: Clock) -> None:
    """Re-sign what is about to expire, until cancelled. One task runs this."""
    while True:
        await clock.sleep(REFRESH_SECONDS)
        await _refresh(publisher)


async def _refresh(publisher: Publisher) -> None:
    """Re-sign what is due. One tenant's unusable key is that tenant's trouble alone."""
    try:
        renewed = await publisher.refresh()
    except CoordinatorError as error:
        # Half a day is left but after a restore: it is tried again before agents would notice.
        log.error("online metadata not re-signed (%s): %s", error.code, error.message)
        return
    if renewed:
        log.info("online metadata re-signed for %d tenants", renewed)
