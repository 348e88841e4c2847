"""`exclave-agent upgrade`: have the system service upgrade itself, and go back if it must."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from exclave_agent.cli import home_option

NOT_RUNNING = 3
FETCH_SECONDS = 1800.0
"""The agent answers once everything is fetched, which may take a while."""
WAIT_SECONDS = 3600.0
POLL_SECONDS = 1.0
PICKED_UP_SECONDS = 60.0
"""The root side begins within a second or two, where it is enabled."""


@click.command()
@click.option("--version", help="This version instead of the newest that is signed.")
@click.option("--check", is_flag=True, help="Only say what would be installed.")
@click.option("--wait", is_flag=True, help="Return when it has ended, with its outcome.")
@click.option("--allow-downgrade", is_flag=True, help="An older --version is what is meant.")
@click.option(
    "--deadline",
    type=click.IntRange(5, 3600),
    default=None,
    help="Seconds within which the new version must be healthy. [default: upgrade.toml's, or 60]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def command(
    version: str | None,
    check: bool,
    wait: bool,
    allow_downgrade: bool,
    deadline: int | None,
    as_json: bool,
    home: Path | None,
) -> None:
    """Install a newer signed version of this agent; go back to the present one if it is not well.

    The package must be among the tenant's signed targets (`exclave release package`), and so
    must the present version's, unless it is kept from an upgrade before. A root service verifies
    both anew, installs, restarts the agent and watches it.

    Exit code 0: asked for, or with --wait: healthy; 1: refused, reverted or failed; 3: no agent
    runs.
    """
    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.config import load_settings

    socket = load_settings(home).path(CONTROL_SOCKET)
    if not check:
        _refuse_disabled()
    asked = {
        "version": version,
        "downgrade": allow_downgrade,
        "deadline": deadline or 0,
        "check": check,
    }
    answer = _ask(socket, asked)
    if check:
        _tell_check(answer, as_json)
        return
    if not wait:
        said = f"asked for {answer['to']} in place of {answer['from']}; see exclave-agent status"
        click.echo(json.dumps(answer) if as_json else said)
        return
    ended = _wait_for(socket, str(answer["id"]))
    click.echo(json.dumps(ended) if as_json else _in_words(ended))
    if ended["outcome"] != "done":
        sys.exit(1)


def _ask(socket: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    from exclave_agent.cli.control import post, status
    from exclave_agent.upgrade.errors import UpgradeRefused

    if status(socket) is None:
        click.echo("error: no agent runs in this home", err=True)
        click.echo("hint: a new version is judged by the running one: start it first", err=True)
        sys.exit(NOT_RUNNING)
    answer = post(socket, "/upgrade", asked, seconds=FETCH_SECONDS)
    if answer is None:
        raise UpgradeRefused("the agent did not answer: see its log", code="not_running")
    if "error" in answer:
        raise UpgradeRefused(str(answer["error"]), code=str(answer.get("code", "")))
    return answer


def _refuse_disabled() -> None:
    """Raises: UpgradeRefused ("unit_missing"), where systemd says that nobody would come.

    Asked here and not in the agent, which may not run programs.
    """
    from exclave_agent.upgrade.errors import UpgradeRefused
    from exclave_agent.upgrade.machine import PATH_UNIT

    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return  # the agent says what is missing
    words = [systemctl, "is-active", "--quiet", PATH_UNIT]
    done = subprocess.run(words, check=False, capture_output=True, timeout=30)
    if done.returncode == 3:
        raise UpgradeRefused(
            f"{PATH_UNIT} is not active, so nobody would carry the upgrade out: "
            f"systemctl enable --now {PATH_UNIT}",
            code="unit_missing",
        )


def _wait_for(socket: Path, request_id: str) -> dict[str, Any]:
    """The end of an upgrade; the agent is restarted meanwhile, and does not answer for a time."""
    from exclave_agent.cli.control import status
    from exclave_agent.upgrade.errors import UpgradeRefused

    began, told = time.monotonic(), ""
    while True:
        found = (status(socket) or {}).get("upgrade")
        state = found["state"] if found is not None and found["id"] == request_id else ""
        if found is not None and state == "finished":
            return dict(found)
        if state and state != told:
            click.echo(f"{state} ...", err=True)
            told = state
        elapsed = time.monotonic() - began
        if state == "waiting" and elapsed > PICKED_UP_SECONDS:
            raise UpgradeRefused(
                "nobody has picked the request up: journalctl -u exclave-upgrade.service",
                code="unit_missing",
            )
        if elapsed > WAIT_SECONDS:
            raise UpgradeRefused(
                "the upgrade has not ended yet: see exclave-agent status", code="in_progress"
            )
        time.sleep(POLL_SECONDS)


def _tell_check(answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["target"] is None:
        click.echo(f"{answer['present']} is the newest version that is signed for this machine")
    else:
        click.echo(f"{answer['target']} would be installed in place of {answer['present']}")


def _in_words(ended: Mapping[str, Any]) -> str:
    change = f"{ended['from']} to {ended['to']}"
    lines = {
        "done": f"upgraded from {change}",
        "reverted": f"not upgraded from {change}: {ended['from']} runs again",
        "failed": f"the upgrade from {change} failed, and {ended['from']} is not well either",
    }
    reason = f"\nreason: {ended['code']}: {ended['reason']}" if ended["code"] else ""
    warnings = "".join(f"\nwarning: {text}" for text in ended["warnings"])
    return lines.get(str(ended["outcome"]), "refused, nothing was changed") + reason + warnings
