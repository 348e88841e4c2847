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
from exclave_coordinator.coordinator import running
from exclave_coordinator.home import Home
from exclave_coordinator.system import SystemClock, SystemIds, SystemRng

log = logging.getLogger("exclave_coordinator")


def serve(home: Home) -> None:
    """Run until SIGTERM or SIGINT. Raises: SetupError, StorageError."""
    settings = config.load(home.settings_file)
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # tuf reports every key that has not signed; we report the sum, once.
    logging.getLogger("tuf").setLevel(logging.WARNING)
    _allow_files()
    # The artifact store and SQLite choose their files' modes themselves.
    os.umask(0o077)
    try:
        asyncio.run(_serve(home, settings))
    except ExceptionGroup as group:
        # The first failure is the reason; the others are its consequences.
        raise group.exceptions[0] from group


def _allow_files() -> None:
    """Every session is a file: take what the system would give us anyway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(home: Home, settings: config.Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(
        home,
        settings,
        version=version("exclave"),
        clock=SystemClock(),
        rng=SystemRng(),
        ids=SystemIds(),
    ) as up:
        ready = {"ready": True, "session": up.session, "enroll": up.enroll, "metrics": up.metrics}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
        log.info("stopping")
