"""`exclave-agent run`: the agent in the foreground, as a service manager wants it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import click

from exclave_agent.cli import home_option, logs
from exclave_agent.config import Settings, load_settings
from exclave_service.sd import Manager


@click.command()
@click.option("--listen", help="host:port of the local HTTP API; loopback only, port 0: any.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@home_option
def command(listen: str | None, log_level: str | None, home: Path | None) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Serves the local API, keeps the session with the coordinator, verifies and activates
    releases, and records every decision. Running requests get `stop_grace` seconds at the end;
    a second signal cancels them. SIGHUP reads the settings again, as `reload` does.

    Under systemd it says when it is ready, feeds the watchdog, and has its listening sockets
    kept over a restart.
    """
    import uvloop

    manager = Manager.take()

    def read() -> Settings:
        return load_settings(home, {"listen": listen, "log_level": log_level})

    settings = read()
    logs.start(settings.log_level)
    uvloop.run(_until_told(settings, manager, read))


async def _until_told(settings: Settings, manager: Manager, read: Callable[[], Settings]) -> None:
    """Stop at the first signal; at the second, without waiting for running requests."""
    from exclave_agent.agent import run_agent
    from exclave_agent.basis import Control

    control = Control(manager, read, logs.set_level)
    loop = asyncio.get_running_loop()
    logs.watch(loop)

    def told() -> None:
        if control.stop.is_set():
            logging.getLogger(__name__).warning("told twice: running requests are cancelled")
            control.hurry.set()
        control.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    loop.add_signal_handler(signal.SIGHUP, control.reload.set)
    await run_agent(settings, control)
