"""`exclave-agent remote`: the keys of remote models' endpoints; the running agent takes them at
once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import home_option

if TYPE_CHECKING:
    from exclave_agent.runtimes.remote_keys import RemoteKeys

MOST = 16_384
"""Characters read from standard input."""


@click.group()
def command() -> None:
    """Keep the keys of remote models' endpoints.

    A release that has a remote model names the key that it needs, and never holds it. A systemd
    credential `exclave-remote-NAME` of the service counts before a key kept here.
    """


@command.command("set-key")
@click.argument("name")
@home_option
def set_key(name: str, home: Path | None) -> None:
    """Keep the key NAME, or replace it. It is asked for, or read from standard input.

    It is sealed as the agent's own keys are, and used from the next request on.
    """
    if sys.stdin.isatty():
        key = click.prompt("key", hide_input=True, err=True)
    else:
        key = sys.stdin.read(MOST)
    _keys(home).set(name, key.strip())
    click.echo(f"key {name} is set")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List the names of the keys that are kept, never the keys."""
    found = _keys(home).list()
    if as_json:
        click.echo(json.dumps([{"name": key.name, "source": key.source} for key in found]))
        return
    for key in found:
        click.echo(f"{key.name:40} {key.source}")


@command.command("remove-key")
@click.argument("name")
@home_option
def remove_key(name: str, home: Path | None) -> None:
    """Forget the key NAME; the endpoint is not asked any more from the next request on."""
    _keys(home).remove(name)
    click.echo(f"key {name} is removed")


def _keys(home: Path | None) -> RemoteKeys:
    from exclave_agent.config import load_settings
    from exclave_agent.runtimes.remote_keys import RemoteKeys
    from exclave_agent.storage.home import claim

    folder = load_settings(home).home
    claim(folder)
    return RemoteKeys(folder)
