"""`exclave audit`: evidence of tenants, of the operators themselves, and of the witness."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_ctl import output
from exclave_ctl.commands import audit_export
from exclave_ctl.context import Session, pass_session
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb


@click.group()
def audit() -> None:
    """Audit bundles, the coordinator's own logs, and who cosigned them."""


audit.add_command(audit_export.export)


@audit.command()
@click.option("--tenant", required=True)
@click.option("--from", "first", type=output.moment, default=0, help="RFC 3339, inclusive.")
@click.option("--to", "last", type=output.moment, default=0, help="RFC 3339, exclusive.")
@click.option("--model", "models", multiple=True, help="Only decisions of this model; repeatable.")
@click.option("--workflow", "workflows", multiple=True, help="Only of this workflow; repeatable.")
@click.option(
    "--commitments",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Only with one of these commitments, one a line: `exclave-agent audit commitments` tells "
    "those of a subject.",
)
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
    models: tuple[str, ...],
    workflows: tuple[str, ...],
    commitments: Path | None,
    file: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Fetch a tenant's evidence for `exclave-verify`. Needs role auditor.

    With --model, --workflow or --commitments the bundle is about those decisions alone (and all
    records that are of none). Each record in it is proven as ever; that none of those which were
    asked for is left out is then the coordinator's word.
    """
    from exclave_ctl import audits

    if file.exists() and not force:
        raise CtlError(f"{file} exists and is not overwritten", "pass --force, or another -o")
    if last and first >= last:
        raise CtlError("--from must lie before --to")
    with session.connect() as client, output.transfer(None, "pulling") as moved:
        pulled = audits.save(
            client.export_audit(
                tenant,
                first,
                last,
                models=models,
                workflows=workflows,
                commitments=commitments.read_text("ascii").split() if commitments else (),
            ),
            file,
            lambda size: moved(file.name, size),
        )
    if as_json:
        output.emit({"file": str(pulled.path), "sha256": pulled.sha256, "length": pulled.length})
        return
    click.echo(f"{pulled.sha256}  {pulled.path}")
    output.note(f"{pulled.length} bytes; next: exclave-verify {pulled.path}")


@audit.command()
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False), required=True
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
def verifier(file: Path, force: bool) -> None:
    """Write the verifier as one file, which needs Python and `cryptography` alone.

    One version has one SHA-256: hand it to auditors by another way than the bundle, in which the
    same file lies.
    """
    from hashlib import sha256

    from exclave_ctl import files
    from exclave_protocol.standalone import verifier as make

    data = make()
    (files.replace if force else files.create)(file, data)
    click.echo(f"{sha256(data).hexdigest()}  {file}")
    output.note(f"run it: python3 {file} bundle.zip --witness-key VKEY")


@audit.command()
@click.option("--from-seq", type=click.IntRange(0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@click.option(
    "--of",
    type=click.Choice(["operators", "cosigned"]),
    default="operators",
    show_default=True,
    help="What operators did, or what the coordinator's witness cosigned.",
)
@output.as_json
@pass_session
def log(session: Session, from_seq: int, limit: int, of: str, as_json: bool) -> None:
    """Show one of the coordinator's own chained logs."""
    from exclave_ctl import audits

    with session.connect() as client:
        raw = list(audits.own_log(client, of, from_seq, limit))
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


@audit.command()
@click.option("--tenant", default="", help="Of one tenant alone.")
@click.option(
    "--silence",
    type=click.IntRange(60),
    default=7200,
    show_default=True,
    help="Seconds without a record after which an active agent is silent.",
)
@click.option("--check", is_flag=True, help="Exit 1 where anything is odd.")
@output.as_json
@pass_session
def fleet(session: Session, tenant: str, silence: int, check: bool, as_json: bool) -> None:
    """Show how every agent's log stands here: head, lag, last witness, what is odd."""
    from exclave_ctl import audits

    with session.connect() as client:
        answer = client.agent_logs(tenant)
    now = int(time.time())
    rows = [(log, audits.anomalies(log, now, silence)) for log in answer.logs]
    if as_json:
        output.emit([_log_json(log, odd) for log, odd in rows])
    else:
        output.table(
            ("TENANT", "AGENT", "EPOCH", "RECORDS", "COSIGNED", "AT", "LAST RECORD", "ODD"),
            [
                (
                    log.tenant,
                    log.agent,
                    log.epoch or "-",
                    log.size,
                    log.witnessed_size,
                    output.when(log.witnessed_at),
                    output.when(log.last_leaf),
                    "; ".join(odd),
                )
                for log, odd in rows
            ],
            "no agent is on file",
        )
    if answer.left_out:
        output.warn(f"{answer.left_out} more logs did not fit the answer: ask for one --tenant")
    if check and any(odd for _, odd in rows):
        raise SystemExit(1)


def _log_json(log: pb.AgentLog, odd: list[str]) -> dict[str, object]:
    return {
        "tenant": log.tenant,
        "agent": log.agent,
        "epoch": log.epoch,
        "size": log.size,
        "witnessed_size": log.witnessed_size,
        "witnessed_at": log.witnessed_at,
        "last_leaf": log.last_leaf,
        "last_seen": log.last_seen,
        "contradictions": log.contradictions,
        "odd": odd,
    }


@audit.command()
@output.as_json
@pass_session
def witnesses(session: Session, as_json: bool) -> None:
    """Show who cosigned the coordinator's own logs, and what its witness cosigned of others'.

    Every checkpoint shown was verified with the keys shown. Exits 1 where one does not verify.
    """
    from exclave_ctl import audits

    with session.connect() as client:
        answer = client.witnesses()
    audits.check_witnesses(answer)
    if as_json:
        output.emit(_witnesses_json(answer))
        return
    click.echo(f"our witness: {answer.witness_vkey}")
    for own in answer.own:
        click.echo(f"{own.origin}: {own.size} leaves\n  key {own.vkey}")
        click.echo("".join(f"  | {line}\n" for line in own.checkpoint.decode().splitlines()))
    output.table(
        ("LOG", "WITNESS", "COSIGNED", "AT", "STATE"),
        [
            (
                own.origin,
                item.witness_vkey.partition("+")[0],
                f"{item.size}/{own.size}",
                output.when(item.cosigned_at),
                _state(item),
            )
            for own in answer.own
            for item in own.cosignatures
        ],
        "no outside witness is configured: see `outside_witnesses` in coordinator.toml",
    )
    output.table(
        ("OUTSIDE LOG", "COSIGNED", "AT", "STATE"),
        [
            (log.origin, log.size, output.when(log.cosigned_at), "FORKED" if log.fork else "ok")
            for log in answer.outside
        ],
        "",
    )
    if answer.outside_left_out:
        output.warn(f"{answer.outside_left_out} more outside logs did not fit the answer")


def _state(item: pb.OutsideCosignature) -> str:
    if item.error:
        return f"{item.error}: {item.message}"
    return "ok" if item.configured else "not configured any more"


def _witnesses_json(answer: pb.ListWitnessesResponse) -> dict[str, object]:
    return {
        "witness_vkey": answer.witness_vkey,
        "own": [
            {
                "origin": own.origin,
                "vkey": own.vkey,
                "size": own.size,
                "checkpoint": own.checkpoint.decode(),
                "cosignatures": [
                    {
                        "witness_vkey": item.witness_vkey,
                        "size": item.size,
                        "cosigned_at": item.cosigned_at,
                        "note": item.note.decode(),
                        "configured": item.configured,
                        "error": item.error,
                        "message": item.message,
                    }
                    for item in own.cosignatures
                ],
            }
            for own in answer.own
        ],
        "outside": [
            {
                "origin": log.origin,
                "size": log.size,
                "cosigned_at": log.cosigned_at,
                "note": log.note.decode(),
                "fork": [note.decode() for note in log.fork],
            }
            for log in answer.outside
        ],
        "outside_left_out": answer.outside_left_out,
    }


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
