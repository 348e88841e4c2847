"""`serve`: a coordinator in this process until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from importlib.metadata import version

from exclave_coordinator import config
from exclave_coordinator.alive import Watch, unheard
from exclave_coordinator.coordinator import running
from exclave_coordinator.home import Home
from exclave_coordinator.storage.migrate import plan
from exclave_coordinator.system import SystemClock, SystemIds, SystemRng
from exclave_service.journal import JournalHandler, is_our_stderr
from exclave_service.sd import Manager

log = logging.getLogger("exclave_coordinator")

STOP_SECONDS = 30.0
"""What stopping takes at most once the sessions are drained: calls under way, the last flush."""
MIGRATION_SECONDS = 60.0
"""What a migration may take at least, beyond the manager's own patience."""
MIGRATION_RATE = 2e6
"""Bytes a second that a slow disk copies, checks and rewrites of the database."""


def serve(home: Home) -> None:
    """Run until SIGTERM or SIGINT.

    Raises: SetupError, StorageError, NotAlive.
    """
    manager = Manager.take()  # first: nothing that is started here may speak in our name
    settings = config.load(home.settings_file)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[log_handler()])
    # tuf reports every key that has not signed; we report the sum, once.
    # The HTTP libraries report every start and request, which are counted.
    for library in ("tuf", "uvicorn", "httpx2", "httpcore2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _allow_files()
    # The artifact store and SQLite choose their files' modes themselves.
    os.umask(0o077)
    try:
        asyncio.run(_serve(home, settings, manager))
    except ExceptionGroup as group:
        raise _reason(group) from group


def log_handler() -> logging.Handler:
    """Records go to the journal with their level where it is listening, else to stderr."""
    if is_our_stderr():
        try:
            return JournalHandler("exclave-coordinator")
        except OSError:
            pass  # stderr leads there as well, only without levels
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    return handler


def _reason(failure: BaseException) -> BaseException:
    """The first failure is the reason; the others are its consequences."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _allow_files() -> None:
    """Every session is a file: take what the system would give us anyway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(home: Home, settings: config.Settings, manager: Manager) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _announce_migration(home, manager)
    clock = SystemClock()
    async with running(
        home, settings, version=version("exclave"), clock=clock, rng=SystemRng(), ids=SystemIds()
    ) as up:
        serving = f"serving on {up.session} (agents, operators) and {up.enroll} (joining)"
        watch = Watch(manager, up.parts.store, up.ports, serving=serving, clock=clock)
        await watch.ready()
        ready = {"ready": True, "session": up.session, "enroll": up.enroll, "metrics": up.metrics}
        if up.witness:
            ready["witness"] = up.witness
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(watch.run(), name="watchdog")
            await stop.wait()
            log.info("stopping")
            feeding.cancel()
        with unheard():
            manager.stopping("sessions are told to come back later")
            manager.extend(settings.drain_seconds + STOP_SECONDS)


def _announce_migration(home: Home, manager: Manager) -> None:
    """A migration copies and rewrites the database: have the manager wait for it."""
    if plan(home.database).steps:
        with unheard():
            manager.status("migrating the database")
            manager.extend(MIGRATION_SECONDS + home.database.stat().st_size / MIGRATION_RATE)
