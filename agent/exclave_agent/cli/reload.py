"""`exclave-agent reload`: have the running agent read its settings again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exclave_agent.cli import home_option

NOT_RUNNING = 3


@click.command()
@click.option("--wait", is_flag=True, help="Return once they are in force, and say what changed.")
@home_option
def command(wait: bool, home: Path | None) -> None:
    """Check the settings, then have the running agent take them over.

    All of them or, on any refusal, none. log_level, heartbeat, upload_interval and
    reconcile_interval can change while the agent runs; a change of another one is refused, as
    it counts from the next start. `systemctl reload exclave-agent` runs this with --wait.

    Exit code 0: taken over; 1: a change needs a restart, nothing was changed; 78: a setting is
    wrong, nothing was changed; 3: no agent runs.
    """
    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.cli.control import post
    from exclave_agent.cli.control import status as ask
    from exclave_agent.config import ConfigError, load_settings

    settings = load_settings(home)
    socket = settings.path(CONTROL_SOCKET)
    if not wait:
        status = ask(socket)
        if status is not None:
            _signal(int(status["pid"]))
            click.echo("settings are valid; the agent was told to read them")
            return
    answer = post(socket, "/reload", {})
    if answer is None:
        click.echo("error: no agent runs in this home: the settings are valid", err=True)
        sys.exit(NOT_RUNNING)
    if "error" in answer:
        raise ConfigError(str(answer["error"]), code=str(answer.get("code", "config_invalid")))
    changed = answer["changed"]
    for name, value in changed.items():
        click.echo(f"{name} = {value}")
    if not changed:
        click.echo("nothing changed")


def _signal(pid: int) -> None:
    import os
    import signal

    os.kill(pid, signal.SIGHUP)
