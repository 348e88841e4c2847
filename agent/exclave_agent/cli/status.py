"""`exclave-agent status`: one look at the running agent, for people and for programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from exclave_agent.cli import home_option

NOT_RUNNING = 3
NO_RELEASE = 4


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def command(as_json: bool, home: Path | None) -> None:
    """Say what the running agent does.

    Exit code 0: it runs and has a release; 3: it does not run; 4: it runs without a release.
    """
    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.cli.control import status as ask
    from exclave_agent.config import load_settings

    status = ask(load_settings(home).path(CONTROL_SOCKET))
    if status is None:
        click.echo("error: no agent runs in this home", err=True)
        click.echo("hint: start it with `exclave-agent run`", err=True)
        sys.exit(NOT_RUNNING)
    click.echo(json.dumps(status) if as_json else _for_people(status))
    if status["release"] is None:
        sys.exit(NO_RELEASE)


def _for_people(status: dict[str, Any]) -> str:
    link, audit, release = status["coordinator"], status["audit"], status["release"]
    left = status["certificate"]["not_after"] - time.time()
    lines = [
        f"agent        {status['spiffe_id']}  (version {status['version']}, pid {status['pid']})",
        f"answers on   {', '.join(status['listens'])}",
        f"coordinator  {link['state']}{': ' + link['error'] if link['error'] else ''}",
        f"certificate  holds {left / 3600:.1f} h more",
        f"record       {audit['size']} leaves in epoch {audit['epoch']}, "
        f"{audit['witnessed_size']} witnessed{': ' + audit['error'] if audit['error'] else ''}",
    ]
    if release is None:
        lines.append(f"release      none: {status['no_release']}")
    else:
        lines.append(
            f"release      version {release['version']}, generation {release['generation']}, "
            f"{release['digest'][:16]}"
        )
    if (upgrade := status["upgrade"]) is not None:
        ended = upgrade["outcome"] or upgrade["state"]
        why = f": {upgrade['reason']}" if upgrade["reason"] else ""
        lines.append(f"upgrade      {upgrade['from']} > {upgrade['to']} {ended}{why}")
    observed = link["observed"]
    if observed is not None and observed["error_code"]:
        lines.append(f"last trouble {observed['error_code']}: {observed['error_message']}")
    lines += [
        f"model        {m['name']}: {m['runtime']} on {m['provider']}, network {m['network']}, "
        f"{', '.join(m['actions'])}"
        for m in status["models"]
    ]
    if waiting := status["waiting_for_people"]:
        lines.append(f"people       {waiting} decisions wait for them")
    lines += [f"attention    {line}" for line in _attention(status["memory"]["models"])]
    return "\n".join(lines)


def _attention(models: list[dict[str, Any]]) -> list[str]:
    """What is not as it would be on a machine that has all that the release wants."""
    degraded = [f"{m['name']} is degraded: {m['degraded']}" for m in models if m["degraded"]]
    out = [m["name"] for m in models if m["state"] == "evicted"]
    if out:
        degraded.append(
            f"{', '.join(out)}: not loaded, comes back when asked for (exclave-agent models)"
        )
    return degraded + [
        f"{m['name']}: its worker keeps dying and is held back"
        for m in models
        if m["state"] == "held back"
    ]
