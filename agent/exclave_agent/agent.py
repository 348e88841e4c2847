"""The agent as a whole: builds its rooms, starts them in order, stops them in reverse.

Start: identity > storage > record > runtimes > API > last release and session. The API answers
without the coordinator, and says so while the models of the last release still load. Stop: the
API finishes its requests first, the record is closed last.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from exclave_agent import __version__
from exclave_agent.api.app import build_app
from exclave_agent.api.control import CONTROL_MODE, CONTROL_SOCKET, build_control
from exclave_agent.api.exchange import Limits
from exclave_agent.api.server import serving
from exclave_agent.audit import disclose as records
from exclave_agent.audit import drafts
from exclave_agent.audit.append import Log
from exclave_agent.audit.boot import record_boot
from exclave_agent.audit.checkpoint import EPOCH, Checkpointer, log_key
from exclave_agent.audit.heartbeat import Heartbeat
from exclave_agent.audit.upload import Uploader
from exclave_agent.chores import Chores
from exclave_agent.config import Settings, split_address
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.identity.renew import Renewer
from exclave_agent.identity.store import Identity, IdentityStore
from exclave_agent.link.artifacts import GrpcArtifacts
from exclave_agent.link.audit import GrpcAudit
from exclave_agent.link.channel import Channels
from exclave_agent.link.enroll import GrpcRenew
from exclave_agent.link.session import Counts, Greeting, LinkState, Session
from exclave_agent.releases.crashes import CrashLoop, CrashWatch
from exclave_agent.releases.report import Desired, Observed
from exclave_agent.releases.verify import Scope
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.runtimes.restart import LOOP, Crash
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.slots import Latest
from exclave_agent.storage.home import Storage
from exclave_agent.system import SystemClock, SystemIds, SystemRng, TrustedTime, settle_memory
from exclave_agent.telemetry.metrics import Metrics
from exclave_agent.telemetry.tally import Tally
from exclave_protocol.note import SigningKey, VerifyKey

log = logging.getLogger(__name__)

RUNTIMES = ("llama", "onnx")
CLOCK_FLOOR_SECONDS = 60
"""How often the highest wall time seen is made durable."""


@dataclass(slots=True)
class Record:
    """The open log and what signs it."""

    log: Log
    checkpointer: Checkpointer
    key: SigningKey


@dataclass(slots=True)
class Basis:
    """What stands before anything can run: who we are, where things are kept, what time it is."""

    settings: Settings
    clock: SystemClock
    rng: SystemRng
    ids: SystemIds
    identities: IdentityStore
    storage: Storage
    record: Record
    time: TrustedTime
    boot_id: str


@dataclass(slots=True)
class Rooms:
    """Everything that runs, once it runs."""

    basis: Basis
    tally: Tally
    metrics: Metrics
    manager: ReleaseManager
    crashes: CrashWatch
    session: Session
    uploader: Uploader
    renewer: Renewer
    pipeline: Pipeline
    listens: tuple[str, ...] = ()
    """Where the API answers: a URL, the path of a socket."""


async def run_agent(
    settings: Settings, stop: asyncio.Event, hurry: asyncio.Event | None = None
) -> None:
    """Run until `stop` is set; running requests then get `stop_grace` seconds. When `hurry` is
    set as well they are cancelled, and recorded as that.

    Raises: IdentityError (not enrolled), StorageError (home locked, foreign or altered),
    CannotListen, and whatever else makes running impossible; what ends a task of the running
    agent comes in an ExceptionGroup.
    """
    async with AsyncExitStack() as stack:
        rooms = await _build(await _lay_basis(settings, stack), stack)
        settle_memory()
        await stack.enter_async_context(_answering(rooms, hurry))
        await _work(rooms, stop)
        log.info("stopping: %d s for running requests", settings.stop_grace)
    log.info("stopped")


async def disclose_offline(settings: Settings, seq: int, field: str) -> bytes:
    """Disclose one field while no agent runs in the home: the record is opened for it.

    Raises: BadRequest, StorageError.
    """
    async with AsyncExitStack() as stack:
        rng, clock = SystemRng(), SystemClock()
        identity = IdentityStore(settings.home).current
        storage = await stack.enter_async_context(
            await asyncio.to_thread(Storage, settings.home, rng)
        )
        record = await _open_record(identity, storage, clock, rng)
        return await _disclose(record, seq, field)


async def _disclose(record: Record, seq: int, field: str) -> bytes:
    """A disclosure file; that it was made is on record before it leaves."""
    file, item = await record.log.store.read(lambda reader: records.disclose(reader, seq, field))
    await records.record_disclosure(record.log, seq, item)
    return file


# --- building ---------------------------------------------------------------------------


async def _open_record(
    identity: Identity, storage: Storage, clock: SystemClock, rng: SystemRng
) -> Record:
    key = log_key(identity.spiffe, identity.audit_key)
    # Verifies the tail of the log: an altered leaf stops the agent here, by its number.
    database = await asyncio.to_thread(storage.open_log, key.name, key.verify_key, epoch=EPOCH)
    return Record(Log(database, clock, rng), Checkpointer(database, key), key)


async def _lay_basis(settings: Settings, stack: AsyncExitStack) -> Basis:
    """Open the home, verify the record, write this start into it."""
    clock, rng, ids = SystemClock(), SystemRng(), SystemIds()
    identities = IdentityStore(settings.home)
    storage = await stack.enter_async_context(await asyncio.to_thread(Storage, settings.home, rng))
    record = await _open_record(identities.current, storage, clock, rng)
    trusted = TrustedTime(clock, storage.state)
    step_back = await trusted.load()
    await trusted.persist()
    boot_id = ids.new()
    await record_boot(
        record.log,
        agent=str(identities.current.spiffe),
        vkey=record.key.vkey,
        version=__version__,
        boot_id=boot_id,
        runtimes=RUNTIMES,
    )
    if step_back is not None:
        seconds = f"{step_back.seconds:.0f} seconds"
        log.warning("the clock stepped back %s: expiry is judged by the latest seen", seconds)
        await record.log.append(drafts.incident("clock_stepped_back", seconds))
    return Basis(settings, clock, rng, ids, identities, storage, record, trusted, boot_id)


async def _build(basis: Basis, stack: AsyncExitStack) -> Rooms:
    """Put the rooms together; what must be closed goes on the stack, innermost last."""
    clock, rng, record = basis.clock, basis.rng, basis.record
    metrics, counts, loops = Metrics(), Latest[Counts](), Latest[CrashLoop]()
    desired, observed = Latest[Desired](), Latest[Observed]()
    tally = Tally(metrics, lambda: counts.put(Counts(**tally.totals())))

    def crashed(crash: Crash) -> None:
        tally.crashed()
        if crash.in_a_row >= LOOP:
            loops.put(CrashLoop(crash.model, crash.sha256, crash.reason))

    supervisor = await stack.enter_async_context(Supervisor(clock=clock, rng=rng, on_crash=crashed))
    channels = Channels(basis.identities)
    stack.push_async_callback(channels.close)
    manager = ReleaseManager(
        basis.settings.home,
        Scope.of(basis.identities.current),
        source=GrpcArtifacts(channels),
        runtimes=supervisor,
        audit=record.log,
        state=basis.storage.state,
        clock=basis.time,
        rng=rng,
        desired=desired,
        observed=observed,
        interval=basis.settings.reconcile_interval,
    )
    stack.push_async_callback(manager.close)
    renewer = Renewer(basis.identities, GrpcRenew(channels), clock=clock, rng=rng)
    uploader = Uploader(
        record.log,
        record.checkpointer,
        GrpcAudit(channels),
        key=record.key.verify_key,
        witness=VerifyKey.parse(basis.identities.current.witness_vkey),
        clock=clock,
        rng=rng,
        interval=basis.settings.upload_interval,
    )
    session = Session(
        channels,
        Greeting(__version__, basis.boot_id, RUNTIMES),
        desired=desired,
        observed=observed,
        counts=counts,
        clock=clock,
        rng=rng,
        audit_position=lambda: (EPOCH, record.log.size),
        on_expired=renewer.renew_now,
        on_connected=uploader.retry_now,
    )
    pipeline = Pipeline(manager.releases, record.log, clock, basis.ids, tally)
    await stack.enter_async_context(pipeline)
    crashes = CrashWatch(manager, record.log, loops)
    return Rooms(basis, tally, metrics, manager, crashes, session, uploader, renewer, pipeline)


# --- running ----------------------------------------------------------------------------


@asynccontextmanager
async def _answering(rooms: Rooms, hurry: asyncio.Event | None) -> AsyncIterator[None]:
    """The HTTP API and the control socket; where they listen is written for tools to find."""
    settings = rooms.basis.settings
    run = settings.path("run")
    run.mkdir(mode=0o700, exist_ok=True)
    run.chmod(0o700)  # one that was there already, too
    host, port = split_address(settings.listen, "listen") if settings.listen else (None, 0)
    app = build_app(
        rooms.pipeline,
        rooms.manager.releases,
        rooms.basis.storage.keys,
        rooms.basis.clock,
        rooms.metrics,
        Limits(body_bytes=settings.max_body),
    )
    control = build_control(
        lambda: status(rooms), lambda seq, field: _disclose(rooms.basis.record, seq, field)
    )
    unix = settings.path(settings.socket) if settings.socket else None
    async with (
        serving(
            app,
            host=host,
            port=port,
            unix=unix,
            max_connections=settings.max_connections,
            stop_grace=settings.stop_grace,
            hurry=hurry,
        ) as listening,
        serving(
            control,
            host=None,
            unix=settings.path(CONTROL_SOCKET),
            unix_mode=CONTROL_MODE,
            stop_grace=1,
        ),
    ):
        endpoints = {
            "http": listening.base_url if host else "",
            "socket": str(unix or ""),
        }
        file = run / "endpoints.json"
        file.with_suffix(".new").write_text(json.dumps({**endpoints, "pid": os.getpid()}) + "\n")
        file.with_suffix(".new").rename(file)
        rooms.listens = tuple(x for x in (endpoints["http"], endpoints["socket"]) if x)
        log.info("answering on %s", ", ".join(rooms.listens))
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


async def _work(rooms: Rooms, stop: asyncio.Event) -> None:
    """All tasks in one group: the first that fails ends the agent, with its reason."""
    basis, chores = rooms.basis, Chores()
    chores.every(CLOCK_FLOOR_SECONDS, "clock floor", basis.time.persist)
    heartbeat = Heartbeat(
        basis.record.log,
        basis.record.checkpointer,
        basis.clock,
        counts=rooms.tally.totals,
        interval=basis.settings.heartbeat,
    )
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(work, name=name)
            for name, work in (
                ("releases", _keep_release(rooms.manager)),
                ("session", rooms.session.run()),
                ("renewal", rooms.renewer.run()),
                ("crash loops", rooms.crashes.run()),
                ("upload", rooms.uploader.run()),
                ("heartbeat", heartbeat.run()),
                ("chores", chores.run()),
            )
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _keep_release(manager: ReleaseManager) -> None:
    """In the group, so that a stop need not wait for models that are still loading."""
    await manager.restore()
    await manager.run()


# --- telling ----------------------------------------------------------------------------


def status(rooms: Rooms) -> dict[str, Any]:
    """One look at everything, JSON-ready; no raw data is anywhere near."""
    identity = rooms.basis.identities.current
    link, upload = rooms.session.status(), rooms.uploader.status
    releases, active = rooms.manager.status(), rooms.manager.releases.active
    models = [] if active is None else active.models.models().values()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "spiffe_id": str(identity.spiffe),
        "tenant": identity.tenant,
        "agent": identity.agent,
        "home": str(rooms.basis.settings.home),
        "listens": list(rooms.listens),
        "certificate": {"not_after": identity.not_after},
        "coordinator": {
            "endpoint": identity.session_endpoint,
            "state": str(link.state),
            "connected": link.state is LinkState.CONNECTED,
            "error": link.error,
            "observed": {
                "generation": releases.generation_seen,
                "phase": releases.phase.name,
                "error_code": releases.error_code,
                "error_message": releases.error_message,
            },
        },
        "audit": {
            "epoch": EPOCH,
            "size": rooms.basis.record.log.size,
            "uploaded": upload.uploaded,
            "witnessed_size": upload.witnessed,
            "error": upload.error,
        },
        "release": None
        if active is None
        else {
            "version": active.version,
            "digest": active.digest,
            "generation": active.generation,
            "policy_digest": active.policy_digest,
            "grace_left": round(releases.grace_left),
        },
        "no_release": releases.error_message or "nothing verified has been assigned yet",
        "models": [
            {
                "name": info.name,
                "runtime": info.runtime,
                "digest": info.sha256,
                "actions": sorted(info.actions),
                "provider": info.provider,
                "network": info.network,
            }
            for info in models
        ],
        "counts": rooms.tally.totals(),
    }
