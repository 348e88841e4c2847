"""`exclave-agent key`: local API keys; they work at once, whether the agent runs or not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from exclave_agent.cli import home_option


@click.group()
def command() -> None:
    """Create, list and revoke local API keys."""


@command.command()
@click.option("--role", "roles", multiple=True, required=True, help="A role; may be repeated.")
@click.option("--label", default="", help="What the key is for, shown in lists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def create(roles: tuple[str, ...], label: str, as_json: bool, home: Path | None) -> None:
    """Create a key. It is shown once; only its hash is kept.

    What a role may do is decided by the signed policy, not here.
    """
    from exclave_agent.config import load_settings
    from exclave_agent.storage.keys import create_key
    from exclave_agent.system import SystemClock, SystemRng

    folder = load_settings(home).home
    made = create_key(folder, roles=roles, label=label, clock=SystemClock(), rng=SystemRng())
    if as_json:
        click.echo(json.dumps({"key": made.secret, "id": made.key_id, "roles": list(roles)}))
        return
    click.echo(made.secret)
    click.echo(f"key {made.key_id} with role {', '.join(roles)}; not shown again", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List keys: ids, roles and labels, never secrets."""
    from exclave_agent.config import load_settings
    from exclave_agent.storage.keys import list_keys

    found = list_keys(load_settings(home).home)
    if as_json:
        rows = [
            {"id": k.key_id, "label": k.label, "roles": list(k.roles), "revoked": k.revoked}
            for k in found
        ]
        click.echo(json.dumps(rows))
        return
    for key in found:
        made = datetime.fromtimestamp(key.created_ns / 1e9, UTC).strftime("%Y-%m-%d")
        state = "revoked" if key.revoked else "active"
        click.echo(f"{key.key_id}  {made}  {state:8} {','.join(key.roles):24} {key.label}")


@command.command()
@click.argument("key_id")
@home_option
def revoke(key_id: str, home: Path | None) -> None:
    """Revoke a key; the running agent refuses it from the next request on."""
    from exclave_agent.config import load_settings
    from exclave_agent.storage.keys import revoke_key
    from exclave_agent.system import SystemClock

    revoke_key(load_settings(home).home, key_id, clock=SystemClock())
    click.echo(f"key {key_id} is revoked")
