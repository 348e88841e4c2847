"""`exclave-agent run`: the agent in the foreground, as a service manager wants it."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click

from exclave_agent.cli import home_option, logs
from exclave_agent.config import Settings, load_settings


@click.command()
@click.option("--listen", help="host:port of the local HTTP API; loopback only, port 0: any.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@home_option
def command(listen: str | None, log_level: str | None, home: Path | None) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Serves the local API, keeps the session with the coordinator, verifies and activates
    releases, and records every decision. Running requests get `stop_grace` seconds at the end;
    a second signal cancels them.
    """
    import uvloop

    settings = load_settings(home, {"listen": listen, "log_level": log_level})
    logs.start(settings.log_level)
    uvloop.run(_until_told(settings))


async def _until_told(settings: Settings) -> None:
    """Stop at the first signal; at the second, without waiting for running requests."""
    from exclave_agent.agent import run_agent

    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    logs.watch(loop)

    def told() -> None:
        if stop.is_set():
            logging.getLogger(__name__).warning("told twice: running requests are cancelled")
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    await run_agent(settings, stop, hurry)
