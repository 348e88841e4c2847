"""The agent's rooms: what each of them is, and how they are put together.

Order: identity > storage > record > runtimes > releases > link > decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from exclave_agent import __version__
from exclave_agent.audit import drafts
from exclave_agent.audit.erase import Eraser
from exclave_agent.audit.final import Finals
from exclave_agent.audit.heartbeat import Heartbeat
from exclave_agent.audit.retention import Retainer
from exclave_agent.audit.rotate import Rotation
from exclave_agent.audit.upload import Uploader
from exclave_agent.basis import RUNTIMES, Basis, eraser_of, freeze, registry_of, thaw
from exclave_agent.config import Settings
from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.cache import Cache
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import NoRelease, StorageError
from exclave_agent.identity.renew import Renewer
from exclave_agent.identity.secrets import Secrets
from exclave_agent.link.artifacts import GrpcArtifacts
from exclave_agent.link.audit import GrpcAudit
from exclave_agent.link.channel import Channels
from exclave_agent.link.enroll import GrpcRenew
from exclave_agent.link.session import Counts, Greeting, Session
from exclave_agent.ports import AuditLog, BudgetView, NoTracer, Tracer
from exclave_agent.releases.crashes import CrashLoop, CrashWatch
from exclave_agent.releases.fetch import ArtifactStore
from exclave_agent.releases.report import Desired, Observed
from exclave_agent.releases.verify import Scope
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.review.desk import Desk
from exclave_agent.review.registry import Registry
from exclave_agent.runtimes import births
from exclave_agent.runtimes.memory_keeper import MemorySettings
from exclave_agent.runtimes.quarantine import Culprit
from exclave_agent.runtimes.remote import RemoteRuntime
from exclave_agent.runtimes.restart import LOOP, Crash
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.slots import Latest
from exclave_agent.telemetry.metrics import Metrics
from exclave_agent.telemetry.tally import Tally
from exclave_agent.telemetry.told import PermittedTracer, told
from exclave_agent.telemetry.tracing import open_tracer
from exclave_agent.telemetry.views import Views
from exclave_agent.upgrade.desk import UpgradeDesk
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.telemetry import Telemetry
from exclave_protocol.note import VerifyKey

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rooms:
    """Everything that runs, once it runs."""

    basis: Basis
    settings: Settings
    """As they hold now: replaced by a reload."""
    tally: Tally
    metrics: Metrics
    supervisor: Supervisor
    manager: ReleaseManager
    crashes: CrashWatch
    session: Session
    uploader: Uploader
    renewer: Renewer
    budgets: Budgets
    cache: Cache
    pipeline: Pipeline
    heartbeat: Heartbeat
    rotation: Rotation
    finals: Finals
    retainer: Retainer
    eraser: Eraser
    registry: Registry
    desk: Desk
    upgrades: UpgradeDesk
    listens: tuple[str, ...] = ()
    """Where the API answers: a URL, the path of a socket."""


async def _accounts(basis: Basis) -> tuple[Budgets, Cache]:
    """What was spent and what was kept before this start; both go by time that never goes back.

    Raises: StorageError.
    """
    identity = basis.identities.current
    budgets = Budgets(basis.storage.ledger, basis.time)
    await budgets.load()
    tenant = f"{identity.trust_domain}/{identity.tenant}"
    cache = Cache(basis.storage.completions, basis.time, tenant)
    await cache.load()
    return budgets, cache


async def _tracer(settings: Settings, basis: Basis, stack: AsyncExitStack) -> Tracer:
    """Traces, if somebody wants them; the SDK is imported only then. Raises: ConfigError."""
    if not settings.otlp_endpoint:
        return NoTracer()
    agent = str(basis.identities.current.spiffe)
    tracer = open_tracer(settings.otlp_endpoint, agent=agent, version=__version__)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer


def _budget_views(manager: ReleaseManager, budgets: Budgets) -> list[BudgetView]:
    """Of the active release's budgets; none before there is one."""
    with contextlib.suppress(NoRelease), manager.releases.lease() as release:
        document = release.policy.budget
        return [] if document is None else budgets.views(document)
    return []


async def record_quarantine(audit: AuditLog, culprit: Culprit) -> None:
    """That a request is refused from now on; which one, its own decision says."""
    text = f"a request was with the worker of model {culprit.model} at two deaths of it"
    try:
        await audit.append(drafts.incident("request_quarantined", text))
    except StorageError as error:
        # The decision itself could not be recorded either, so it was not answered.
        log.error("quarantine not recorded: %s", error.message)


async def build(settings: Settings, basis: Basis, stack: AsyncExitStack) -> Rooms:
    """Put the rooms together; what must be closed goes on the stack, innermost last."""
    clock, rng, record = basis.clock, basis.rng, basis.record
    metrics, counts, loops = Metrics(), Latest[Counts](), Latest[CrashLoop]()
    desired, observed = Latest[Desired](), Latest[Observed]()

    def policy() -> CompiledPolicy | None:
        now = manager.releases.active
        return None if now is None else now.policy

    def telemetry() -> Telemetry | None:
        return None if (now := policy()) is None else now.telemetry

    def may_tell(counts: Counts) -> Counts | None:
        totals = told(asdict(counts), telemetry())
        return None if totals is None else Counts(**totals)

    tally = Tally(metrics, lambda: counts.put(Counts(**tally.totals())))

    def crashed(crash: Crash) -> None:
        tally.crashed()
        if crash.in_a_row >= LOOP:
            loops.put(CrashLoop(crash.model, crash.sha256, crash.reason))

    workers, secrets = settings.worker_socket, Secrets(settings.home)
    remote = RemoteRuntime(
        secrets,
        clock=clock,
        rng=rng,
        proxy=settings.remote_proxy,
        authority=Path(settings.remote_ca) if settings.remote_ca else None,
    )
    stack.push_async_callback(remote.close)
    supervisor = await stack.enter_async_context(
        Supervisor(
            clock=clock,
            rng=rng,
            on_crash=crashed,
            on_quarantine=lambda culprit: record_quarantine(record.log, culprit),
            birth=births.service(settings.path(workers)) if workers else births.child,
            remote=remote,
            memory=MemorySettings.of_mib(settings.ram_budget_mib, settings.vram_budget_mib),
        )
    )
    channels = Channels(basis.identities)
    stack.push_async_callback(channels.close)
    manager = ReleaseManager(
        settings.home,
        Scope.of(basis.identities.current),
        source=GrpcArtifacts(channels),
        runtimes=supervisor,
        audit=record.log,
        state=basis.storage.state,
        clock=basis.time,
        rng=rng,
        desired=desired,
        observed=observed,
        interval=settings.reconcile_interval,
    )
    stack.push_async_callback(manager.close)
    renewer = Renewer(basis.identities, GrpcRenew(channels), clock=clock, rng=rng)
    uploader = Uploader(
        record.log,
        record.checkpointer,
        GrpcAudit(channels),
        terms=record.terms,
        witness=VerifyKey.parse(basis.identities.current.witness_vkey),
        freeze=lambda found: freeze(record, basis.storage, found),
        proven=lambda: thaw(record.log),
        clock=clock,
        rng=rng,
        interval=settings.upload_interval,
    )
    session = Session(
        channels,
        Greeting(__version__, basis.boot_id, RUNTIMES),
        desired=desired,
        observed=observed,
        counts=counts,
        clock=clock,
        rng=rng,
        audit_position=lambda: (record.epoch.number, record.log.size),
        tell=may_tell,
        on_expired=renewer.renew_now,
        on_connected=uploader.retry_now,
    )
    budgets, cache = await _accounts(basis)
    await basis.storage.referrals.count()
    pipeline = Pipeline(
        manager.releases,
        record.log,
        clock,
        basis.ids,
        tally,
        budgets=budgets,
        cache=cache,
        referrals=basis.storage.referrals,
        keys=secrets,
        tracer=PermittedTracer(await _tracer(settings, basis, stack), telemetry),
    )
    await stack.enter_async_context(pipeline)
    metrics.watch(
        Views(
            plan=supervisor.plan,
            breakers=pipeline.breakers,
            budgets=lambda: _budget_views(manager, budgets),
            referrals=lambda: basis.storage.referrals.known,
        )
    )
    retainer = Retainer(
        record.log,
        basis.time,
        policy,
        basis.storage.truncate,
        pipeline.live,
    )
    finals = Finals(
        record.log,
        basis.storage.state,
        GrpcAudit(channels),
        lambda: None if (now := policy()) is None else now.finality,
    )
    crashes = CrashWatch(manager, record.log, loops)
    heartbeat = Heartbeat(
        record.log,
        record.checkpointer,
        clock,
        counts=lambda: told(tally.totals(), telemetry()) or {},
        interval=settings.heartbeat,
    )
    packages = ArtifactStore(
        settings.home / "upgrade" / "packages",
        GrpcArtifacts(channels),
        clock=clock,
        rng=rng,
        executor=stack.enter_context(ThreadPoolExecutor(1, "exclave-packages")),
    )
    upgrades = UpgradeDesk(
        settings.home,
        repository=manager.repository,
        store=packages,
        incidents=record.log,
        ids=basis.ids,
    )
    registry = await registry_of(record, basis.storage, settings.home)
    return Rooms(
        basis,
        settings,
        tally,
        metrics,
        supervisor,
        manager,
        crashes,
        session,
        uploader,
        renewer,
        budgets,
        cache,
        pipeline,
        heartbeat,
        Rotation(record.log, record.terms, uploader.begin_term, clock, settings.key_rotation),
        finals,
        retainer,
        eraser_of(record.log, basis.storage, clock, basis.ids),
        registry,
        Desk(record.log, basis.storage.referrals, registry, basis.time, rng),
        upgrades,
    )
