"""`exclave token`: single-use join tokens."""

from __future__ import annotations

from pathlib import Path

import click

from exclave_ctl import output
from exclave_ctl.context import Session, pass_session


@click.group()
def token() -> None:
    """Single-use tokens with which machines join."""


@token.command()
@click.argument("tenant")
@click.option("--agent", default="", help="Only for the agent of this name.")
@click.option("--ttl", type=output.duration, default="24h", show_default=True)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path, exists=True),
    help="Pin the root of this workspace (do).",
)
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), help="Write it to a file, 0600."
)
@output.as_json
@pass_session
def create(
    session: Session,
    tenant: str,
    agent: str,
    ttl: int,
    workspace: Path | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Make a join token: a password, good for one machine. Needs role admin."""
    from exclave_ctl import files, tokens
    from exclave_ctl.errors import CtlError
    from exclave_ctl.workspace import Workspace

    if file is not None and file.exists():
        raise CtlError(f"{file} exists and is not overwritten", "choose another name with -o")
    opened = None if workspace is None else Workspace.load(workspace)
    with session.connect() as client:
        granted = tokens.create(client, tenant, agent, ttl, opened)
    if not granted.pinned_by_workspace:
        output.warn(
            "the root pin comes from the coordinator itself; pass --workspace to pin the root "
            "that the keyholders signed"
        )
    text = granted.token.encode()
    if file is not None:
        files.create(file, f"{text}\n".encode(), mode=0o600)
    if as_json:
        value: dict[str, object] = {
            "token_id": granted.token.token_id,
            "expires": granted.expires,
            "tenant": tenant,
            "agent": agent,
        }
        output.emit(value | ({"file": str(file)} if file is not None else {"token": text}))
        return
    if file is None:
        click.echo(text)
    output.note(
        f"token {granted.token.token_id}: one machine may join {tenant} with it until "
        f"{output.when(granted.expires)}"
    )


@token.command()
@click.argument("token_id")
@pass_session
def revoke(session: Session, token_id: str) -> None:
    """Make the token with this id worthless."""
    with session.connect() as client:
        client.revoke_token(token_id)
    click.echo(f"token {token_id} is revoked")
