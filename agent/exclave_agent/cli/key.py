"""`exclave-agent key`: local API keys; they work at once, whether the agent runs or not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import home_option

if TYPE_CHECKING:
    from exclave_agent.storage.keys import KeyRegistry


def registry(home: Path | None) -> KeyRegistry:
    """The keys of a home; its databases are made if this is the first command there."""
    from exclave_agent.config import load_settings
    from exclave_agent.storage.home import STATE_FILE, prepare
    from exclave_agent.storage.keys import KeyRegistry
    from exclave_agent.system import SystemClock, SystemRng

    settings = load_settings(home)
    prepare(settings.home, SystemRng())
    return KeyRegistry(settings.home / STATE_FILE, SystemClock(), SystemRng())


@click.group()
def command() -> None:
    """Create, list and revoke local API keys."""


@command.command()
@click.option("--role", "roles", multiple=True, required=True, help="A role; may be repeated.")
@click.option("--name", default="", help="What the key is for, shown in lists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def create(roles: tuple[str, ...], name: str, as_json: bool, home: Path | None) -> None:
    """Create a key. It is shown once; only its hash is kept.

    What a role may do is decided by the signed policy, not here.
    """
    info, secret = registry(home).create(name or f"{roles[0]} key", roles)
    if as_json:
        click.echo(json.dumps({"key": secret, "id": info.key_id, "roles": list(info.roles)}))
        return
    click.echo(secret)
    click.echo(f"key {info.key_id} with role {', '.join(roles)}; not shown again", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List keys: ids, roles and names, never secrets."""
    found = registry(home).list()
    if as_json:
        rows = [
            {"id": k.key_id, "name": k.name, "roles": list(k.roles), "revoked": bool(k.revoked_ns)}
            for k in found
        ]
        click.echo(json.dumps(rows))
        return
    for key in found:
        made = datetime.fromtimestamp(key.created_ns / 1e9, UTC).strftime("%Y-%m-%d")
        state = "revoked" if key.revoked_ns else "active"
        click.echo(f"{key.key_id}  {made}  {state:8} {','.join(key.roles):24} {key.name}")


@command.command()
@click.argument("key_id")
@home_option
def revoke(key_id: str, home: Path | None) -> None:
    """Revoke a key; the running agent refuses it from the next request on."""
    registry(home).revoke(key_id)
    click.echo(f"key {key_id} is revoked")
