"""`exclave-agent run`: the agent in the foreground, as a service manager wants it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click

from exclave_agent.cli import home_option


@click.command()
@click.option("--listen", help="host:port of the local HTTP API; loopback only, port 0: any.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@home_option
def command(listen: str | None, log_level: str | None, home: Path | None) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Serves the local API, keeps the session with the coordinator, verifies and activates
    releases, and records every decision. Running requests get `stop_grace` seconds at the end.
    """
    import uvloop

    from exclave_agent.agent import run_agent
    from exclave_agent.config import load_settings

    settings = load_settings(home, {"listen": listen, "log_level": log_level})
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for chatty in ("apscheduler", "tuf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run_agent(settings, stop)

    uvloop.run(until_told())
