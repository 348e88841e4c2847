"""The agent as a whole: builds its rooms, starts them in order, stops them in reverse.

Start: identity > storage > record > runtimes > API > last release and session. The API answers
without the coordinator, and says so while the models of the last release still load. Stop: the
API finishes its requests first, the record is closed last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from exclave_agent import overview
from exclave_agent.api.app import build_app
from exclave_agent.api.control import CONTROL_MODE, CONTROL_SOCKET, build_control
from exclave_agent.api.exchange import Limits
from exclave_agent.api.server import Listening, serving
from exclave_agent.basis import Control, lay_basis
from exclave_agent.chores import Chores
from exclave_agent.config import LIVE, ConfigError, Settings, differences, split_address
from exclave_agent.custody import Custody
from exclave_agent.errors import AgentError, StorageError
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.rooms import Rooms, build
from exclave_agent.service import KeptSockets, Liveness, http_answers
from exclave_agent.system import settle_memory
from exclave_service.sd import NotifyError

log = logging.getLogger(__name__)

CLOCK_FLOOR_SECONDS = 60
"""How often the highest wall time seen is made durable."""
AFTER_GRACE = 45.0
"""Seconds, beyond `stop_grace`, for workers to end and the record to close."""
UPGRADE_REPORT_SECONDS = 10
"""How soon an upgrade that ended is on record."""
FORGET_SECONDS = 600
"""How soon the sums of former periods, and kept answers that are over or erased, are deleted."""
RETAIN_SECONDS = 60.0
FINAL_SECONDS = 30.0
EXPIRE_SECONDS = 15.0


async def run_agent(settings: Settings, control: Control) -> None:
    """Run until `control.stop` is set; running requests then get `stop_grace` seconds.

    Raises: IdentityError (not enrolled), StorageError (home locked, foreign or altered),
    CannotListen, and whatever else makes running impossible; what ends a task of the running
    agent comes in an ExceptionGroup.
    """
    async with AsyncExitStack() as stack:
        rooms = await build(settings, await lay_basis(settings, control, stack), stack)
        settle_memory()
        listening = await stack.enter_async_context(_answering(rooms))
        await _work(rooms, listening)
        _tell(control.manager.stopping)
        # The unit's own limit knows nothing of `stop_grace`.
        _tell(lambda: control.manager.extend(settings.stop_grace + AFTER_GRACE))
        log.info("stopping: %d s for running requests", settings.stop_grace)
    log.info("stopped")


# --- running ----------------------------------------------------------------------------


@asynccontextmanager
async def _answering(rooms: Rooms) -> AsyncIterator[Listening]:
    """The HTTP API and the control socket; where they listen is written for tools to find."""
    settings, outside = rooms.settings, rooms.basis.control
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
        rooms.desk,
    )
    custody = Custody(
        rooms.basis.record.log, rooms.eraser, rooms.registry, rooms.pipeline.live_count
    )
    control = build_control(
        lambda: overview.status(rooms),
        custody.answer,
        lambda: _reload(rooms),
        rooms.upgrades.answer,
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
            hurry=outside.hurry,
            keeper=KeptSockets(outside.manager) if outside.manager.present else None,
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
            yield listening
        finally:
            file.unlink(missing_ok=True)


async def _work(rooms: Rooms, listening: Listening) -> None:
    """All tasks in one group: the first that fails ends the agent, with its reason."""
    basis, chores = rooms.basis, Chores()
    chores.every(CLOCK_FLOOR_SECONDS, "clock floor", basis.time.persist)
    chores.every(UPGRADE_REPORT_SECONDS, "upgrade report", rooms.upgrades.report)
    chores.every(FORGET_SECONDS, "budgets of former periods", rooms.budgets.forget)
    chores.every(RETAIN_SECONDS, "values kept too long", rooms.retainer.run)
    chores.every(RETAIN_SECONDS, "erasures that were cut off", rooms.eraser.resume)
    chores.every(FORGET_SECONDS, "answers kept too long", rooms.cache.sweep)
    chores.every(EXPIRE_SECONDS, "what nobody approved in time", rooms.desk.expire)
    chores.every(FINAL_SECONDS, "what outside witnesses cosigned", rooms.finals.run)
    alive = Liveness(
        basis.control.manager,
        basis.clock,
        {
            "the record's writer": basis.storage.writer.answer,
            "the API": partial(http_answers, listening.host, listening.port or 0, listening.unix),
        },
        lambda: overview.line(rooms),
    )
    # How the upgrade ended that started this process; a full disk leaves it to the chore.
    with contextlib.suppress(StorageError):
        await rooms.upgrades.report()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(work, name=name)
            for name, work in (
                ("releases", _keep_release(rooms.manager)),
                ("session", rooms.session.run()),
                ("renewal", rooms.renewer.run()),
                ("crash loops", rooms.crashes.run()),
                ("upload", rooms.uploader.run()),
                ("heartbeat", rooms.heartbeat.run()),
                ("key rotation", rooms.rotation.run()),
                ("chores", chores.run()),
                ("liveness", alive.run()),
                ("reload", _reload_when_told(rooms)),
            )
        ]
        _tell(lambda: basis.control.manager.ready(overview.line(rooms)))
        await basis.control.stop.wait()
        for task in tasks:
            task.cancel()


async def _reload_when_told(rooms: Rooms) -> None:
    """SIGHUP: nobody waits for an answer, so refusals are logged."""
    while True:
        await rooms.basis.control.reload.wait()
        rooms.basis.control.reload.clear()
        try:
            await _reload(rooms)
        except AgentError as error:
            log.error("settings not reloaded: %s", error.message)


async def _reload(rooms: Rooms) -> dict[str, Any]:
    """Take over the settings that a running agent can; all of them or, on any refusal, none.

    Raises: ConfigError (invalid; "restart_needed" names those that only a restart changes).
    """
    control = rooms.basis.control
    new = await asyncio.to_thread(control.read)
    changed = differences(rooms.settings, new)
    fixed = [name for name in changed if name not in LIVE]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} changed, which only a restart takes over; nothing was changed",
            code="restart_needed",
        )
    control.set_level(new.log_level)
    rooms.heartbeat.set_interval(new.heartbeat)
    rooms.uploader.set_interval(new.upload_interval)
    rooms.manager.set_interval(new.reconcile_interval)
    rooms.settings = new
    log.info("settings reloaded, changed: %s", ", ".join(changed) or "nothing")
    return {"changed": {name: getattr(new, name) for name in changed}}


def _tell(what: Callable[[], None]) -> None:
    """Say something to the service manager; one that does not listen must not stop the agent."""
    try:
        what()
    except NotifyError as error:
        log.warning("%s", error)


async def _keep_release(manager: ReleaseManager) -> None:
    """In the group, so that a stop need not wait for models that are still loading."""
    await manager.restore()
    await manager.run()
