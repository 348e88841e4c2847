"""`exclave operator`: people and programs at the centre."""

from __future__ import annotations

from pathlib import Path

import click

from exclave_ctl import output
from exclave_ctl.context import Session, pass_session
from exclave_protocol.identity import ROLES


@click.group()
def operator() -> None:
    """Operators and their certificates."""


@operator.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="Folder."
)
@click.option("--ttl", type=output.duration, default="30d", show_default=True)
@output.as_json
@pass_session
def issue(session: Session, name: str, role: str, folder: Path, ttl: int, as_json: bool) -> None:
    """Make a key here, have it certified for ROLE, write a profile folder. Needs role admin."""
    from exclave_ctl.operators import issue as issue_profile

    with session.connect() as client:
        expires = issue_profile(client, name, role, ttl, folder)
    if as_json:
        output.emit({"name": name, "role": role, "profile": str(folder), "expires": expires})
        return
    click.echo(f"{name} is {role} until {output.when(expires)}; profile: {folder}")
