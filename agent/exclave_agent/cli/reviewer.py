"""`exclave-agent reviewer`: whose own keys act on decisions that wait for people."""

from __future__ import annotations

import json
from pathlib import Path

import click

from exclave_agent.cli import home_option
from exclave_agent.cli.records import ask
from exclave_agent.config import load_settings


@click.group()
def command() -> None:
    """Register reviewers' own keys, and remove them; each is put on record."""


@command.command()
@click.option("--vkey", required=True, help="The reviewer's public key, or a file that holds it.")
@click.option("--api-key", "key", required=True, help="Id of the API key that goes with it.")
@home_option
def add(vkey: str, key: str, home: Path | None) -> None:
    """Register a reviewer's key. From then on what it signs counts.

    `exclave-agent review key` makes one, on the reviewer's machine; only its public half comes
    here. What the reviewer may act on is decided by the roles of the API key and by the signed
    policy's Approval documents.
    """
    path = Path(vkey)
    if "+" not in vkey and path.is_file():
        vkey = path.read_text(encoding="utf-8").strip()
    made = ask(load_settings(home), {"do": "reviewer_add", "vkey": vkey, "key": key})
    click.echo(f"reviewer {made['name']} is registered: record {made['record']}")


@command.command()
@click.argument("name")
@home_option
def remove(name: str, home: Path | None) -> None:
    """Remove a reviewer: nothing that the key signs from now on counts. What it signed stays."""
    done = ask(load_settings(home), {"do": "reviewer_remove", "name": name})
    click.echo(f"reviewer {done['name']} is removed")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List reviewers: names, keys and roles."""
    found = ask(load_settings(home), {"do": "reviewers"})["reviewers"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        click.echo(f"{each['name']:24} {each['key']}  {','.join(each['roles']):24} {each['vkey']}")
    if not found:
        click.echo("no reviewer is registered")
