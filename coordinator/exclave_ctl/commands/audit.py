"""`exclave audit`: evidence of tenants and of the operators themselves."""

from __future__ import annotations

import json
from pathlib import Path

import click

from exclave_ctl import output
from exclave_ctl.context import Session, pass_session
from exclave_ctl.errors import CtlError


@click.group()
def audit() -> None:
    """Audit bundles and the operators' log."""


@audit.command()
@click.option("--tenant", required=True)
@click.option("--from", "first", type=output.moment, default=0, help="RFC 3339, inclusive.")
@click.option("--to", "last", type=output.moment, default=0, help="RFC 3339, exclusive.")
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False), required=True
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@output.as_json
@pass_session
def pull(
    session: Session,
    tenant: str,
    first: int,
    last: int,
    file: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Fetch a tenant's evidence for `exclave-verify`. Needs role auditor."""
    from exclave_ctl import audits

    if file.exists() and not force:
        raise CtlError(f"{file} exists and is not overwritten", "pass --force, or another -o")
    if last and first >= last:
        raise CtlError("--from must lie before --to")
    with session.connect() as client, output.transfer(None, "pulling") as moved:
        pulled = audits.save(
            client.export_audit(tenant, first, last), file, lambda size: moved(file.name, size)
        )
    if as_json:
        output.emit({"file": str(pulled.path), "sha256": pulled.sha256, "length": pulled.length})
        return
    click.echo(f"{pulled.sha256}  {pulled.path}")
    output.note(f"{pulled.length} bytes; next: exclave-verify {pulled.path}")


@audit.command()
@click.option("--from-seq", type=click.IntRange(0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@output.as_json
@pass_session
def log(session: Session, from_seq: int, limit: int, as_json: bool) -> None:
    """Show what operators did, from the coordinator's own chained log."""
    from exclave_ctl import audits

    with session.connect() as client:
        raw = list(audits.operator_log(client, from_seq, limit))
    leaves = audits.check_chain(raw)
    if as_json:
        # A leaf is JSON as it stands; its exact bytes are what the log commits to.
        output.emit([json.loads(leaf) for leaf in raw])
        return
    output.table(
        ("SEQ", "TIME", "TYPE", "WHAT"),
        [
            (
                leaf.seq,
                output.when(leaf.time_ns // 1_000_000_000),
                leaf.type.value,
                " ".join(f"{key}={_cell(value)}" for key, value in leaf.body.items()),
            )
            for leaf in leaves
        ],
        "the log is empty",
    )


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
