"""`exclave-agent doctor`: all that the agent needs, checked in order, failures with remedies."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import roots_home_option
from exclave_agent.config import DEFAULT_HOME, ConfigError, Settings, load_settings, settings_file
from exclave_agent.errors import IdentityError

if TYPE_CHECKING:
    from exclave_agent.doctor.host import Host
    from exclave_agent.doctor.site import Site


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--offline", is_flag=True, help="Stay off the network.")
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
@roots_home_option
def command(as_json: bool, offline: bool, strict: bool, home: Path | None) -> None:
    """Check everything the agent needs, and say what to do about what is wrong.

    Changes nothing. Run it as root or as the agent's user, whether the agent runs or not.

    Exit code 0: all well (warnings allowed); 1: something needs the remedy printed below it.
    """
    from exclave_agent.doctor.examine import examine

    report = examine(look(home, offline=offline))
    if as_json:
        click.echo(json.dumps(report.value()))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(report.exit_code(strict=strict))


def look(
    home: Path | None, *, offline: bool, first: Callable[[Host], None] = lambda _: None
) -> Site:
    """The agent of a home; root's part of the look is done when this returns, and `first` with
    it, and root is given up for the home's user."""
    from exclave_agent.cli import audit, control
    from exclave_agent.doctor.host import Host
    from exclave_agent.doctor.rights import foresee
    from exclave_agent.doctor.site import Site
    from exclave_agent.system import SystemClock

    host = Host()
    folder = home or Path(os.environ.get("EXCLAVE_HOME") or DEFAULT_HOME)
    if host.uid == 0:
        foresee(host)
    first(host)
    _give_up_root(folder)
    settings, trouble = Settings(home=folder), ""
    try:
        settings = load_settings(home)
    except ConfigError as error:
        trouble = error.message
    return Site(
        settings,
        host,
        SystemClock(),
        ask=lambda: control.status(settings.path(_control())),
        verify=lambda: audit.verify_home(folder),
        offline=offline,
        settings_error=trouble,
        sources={} if trouble else sources(folder, os.environ),
    )


def _give_up_root(home: Path) -> None:
    from exclave_agent.cli.owner import become_owner
    from exclave_service import owner

    try:
        become_owner(home)
    except IdentityError:
        # The credential does not open, which the checks of identity and seal tell; what the
        # agent's user wrote is not for root to open all the same.
        owner.become_owner(home)


def _control() -> str:
    from exclave_agent.api.control import CONTROL_SOCKET

    return CONTROL_SOCKET


def sources(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Where each setting that is not a default comes from; the settings are known to be valid."""
    import tomllib
    from dataclasses import fields

    file = settings_file(home)
    found = {} if home == DEFAULT_HOME else {"home": "--home or EXCLAVE_HOME"}
    if file is not None:
        found |= dict.fromkeys(tomllib.loads(file.read_text(encoding="utf-8")), str(file))
    for spec in fields(Settings):
        name = f"EXCLAVE_{spec.name.upper()}"
        if spec.name != "home" and name in environ:
            found[spec.name] = name
    return found
