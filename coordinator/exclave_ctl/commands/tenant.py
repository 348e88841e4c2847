"""`exclave tenant`: tenants and the keys that sign for them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_ctl import output
from exclave_ctl.context import Session, pass_session, utc_now
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_ctl.client import Client
    from exclave_protocol.pb import admin_pb2 as pb


@click.group()
def tenant() -> None:
    """Tenants and the keys that sign for them."""


@tenant.command()
@click.argument("name")
@click.option(
    "--key",
    "key_files",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Public key (NAME.pub or PEM) of a person who signs; repeat for each.",
)
@click.option("--threshold", type=click.IntRange(1, 32), required=True, help="How many must sign.")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), help="Workspace; default ./NAME."
)
@click.option(
    "--expires", type=output.duration, default="365d", show_default=True, help="Of the root."
)
@click.option("--existing", is_flag=True, help="The tenant exists; only draft its first root.")
@output.as_json
@pass_session
def create(
    session: Session,
    name: str,
    key_files: tuple[Path, ...],
    threshold: int,
    folder: Path | None,
    expires: int,
    existing: bool,
    as_json: bool,
) -> None:
    """Create a tenant and the workspace with its root draft. Needs role admin."""
    from exclave_ctl.keys import load_public
    from exclave_ctl.workspace import Workspace
    from exclave_protocol.tufmeta import key_from_public, new_root, to_bytes

    folder = folder or Path(name)
    if (folder / "tenant.json").exists():
        raise CtlError(f"{folder} is already a workspace", "choose another folder with -o")
    keys = [load_public(path) for path in key_files]
    if threshold > len(keys):
        raise CtlError(f"threshold {threshold} needs at least as many keys; {len(keys)} are given")
    if len({key.keyid for key in keys}) != len(keys):
        raise CtlError("the same key is given twice")
    with session.connect() as client:
        made = client.tenant(name) if existing else _create(client, name)
    if made.root_version:
        raise CtlError(
            f"tenant {name} already has a published root", "use the workspace it was made in"
        )
    root = new_root(
        keys,
        threshold,
        key_from_public(made.snapshot_public_key),
        key_from_public(made.timestamp_public_key),
        utc_now() + timedelta(seconds=expires),
    )
    workspace = Workspace.create(
        folder, tenant=name, trust_domain=made.trust_domain, root_draft=to_bytes(root)
    )
    pin = workspace.root_pin()
    if as_json:
        output.emit(_value(made) | {"workspace": str(folder), "root_pin": pin})
        return
    click.echo(f"tenant {name}: {threshold} of {len(keys)} keys must sign; workspace {folder}")
    output.note(f"root pin {pin}")
    output.note(f"next: exclave release build {folder} --pack DIR --model name=path")


def _create(client: Client, name: str) -> pb.Tenant:
    try:
        return client.create_tenant(name)
    except CtlError as error:
        if error.code != "ALREADY_EXISTS":
            raise
        raise CtlError(
            f"tenant {name} already exists",
            "if its workspace was lost before anything was published, pass --existing",
            code=error.code,
        ) from error


@tenant.command("list")
@output.as_json
@pass_session
def list_tenants(session: Session, as_json: bool) -> None:
    """List all tenants."""
    with session.connect() as client:
        tenants = client.tenants()
    if as_json:
        output.emit([_value(item) for item in tenants])
        return
    output.table(
        ("TENANT", "ROOT", "TARGETS", "CREATED"),
        [(t.name, t.root_version, t.targets_version, output.when(t.created)) for t in tenants],
        "no tenants yet: `exclave tenant create`",
    )


@tenant.command()
@click.argument("name")
@output.as_json
@pass_session
def show(session: Session, name: str, as_json: bool) -> None:
    """Show one tenant."""
    with session.connect() as client:
        value = _value(client.tenant(name))
    if as_json:
        output.emit(value)
        return
    for field, shown in value.items():
        click.echo(f"{field:<22}{shown or '-'}")


def _value(tenant: pb.Tenant) -> dict[str, str | int]:
    return {
        "name": tenant.name,
        "trust_domain": tenant.trust_domain,
        "root_version": tenant.root_version,
        "targets_version": tenant.targets_version,
        "root_pin": tenant.root_pin.hex(),
        "snapshot_public_key": tenant.snapshot_public_key.hex(),
        "timestamp_public_key": tenant.timestamp_public_key.hex(),
        "created": tenant.created,
    }
