"""`exclave-agent secret`: keys of remote models' endpoints and of redactions; the running agent
takes them at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import home_option

if TYPE_CHECKING:
    from exclave_agent.identity.secrets import Secrets

MOST = 16_384
"""Characters read from standard input, or a file."""


@click.group()
def command() -> None:
    """Keep secrets, encrypted: keys of remote models' endpoints and of redactions.

    A release names the secrets that it needs, and never holds one; the policy says who may use
    them. A systemd credential `exclave-remote-NAME` of the service counts before a secret kept
    here.
    """


@command.command("set")
@click.argument("name")
@click.option(
    "--from-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read it from this file.",
)
@home_option
def set_(name: str, from_file: Path | None, home: Path | None) -> None:
    """Keep the secret NAME, or replace it. It is asked for, or read from standard input.

    It is used from the next request on.
    """
    if from_file is not None:
        with from_file.open(encoding="utf-8", errors="replace") as file:
            secret = file.read(MOST)
    elif sys.stdin.isatty():
        secret = click.prompt("secret", hide_input=True, err=True)
    else:
        secret = sys.stdin.read(MOST)
    _secrets(home).set(name, secret.strip())
    click.echo(f"secret {name} is set")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List the names of the secrets that are kept, never the secrets."""
    found = _secrets(home).list()
    if as_json:
        click.echo(json.dumps([{"name": one.name, "source": one.source} for one in found]))
        return
    for one in found:
        click.echo(f"{one.name:40} {one.source}")


@command.command("remove")
@click.argument("name")
@home_option
def remove(name: str, home: Path | None) -> None:
    """Forget the secret NAME; what needs it is refused from the next request on."""
    _secrets(home).remove(name)
    click.echo(f"secret {name} is removed")


def _secrets(home: Path | None) -> Secrets:
    from exclave_agent.config import load_settings
    from exclave_agent.identity.secrets import Secrets
    from exclave_agent.storage.home import claim

    folder = load_settings(home).home
    claim(folder)
    return Secrets(folder)
