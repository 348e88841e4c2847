"""`exclave-agent audit`: this agent's records, with values for those who may read the home; whose
values end, and whose must not."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exclave_agent.cli import home_option, subjects
from exclave_agent.cli.records import ask, print_lines, print_records, read, row_of
from exclave_agent.config import load_settings

if TYPE_CHECKING:
    from exclave_agent.audit.disclose import Shown
    from exclave_agent.audit.search import Wanted
    from exclave_agent.audit.store import LogReader

T = TypeVar("T")


def verify_home(home: Path, epoch: int | None = None) -> int:
    """Check the whole log of a home; returns the number of leaves. Raises: StorageError."""
    from exclave_agent.audit.verify import verify_log
    from exclave_agent.identity.store import load
    from exclave_protocol.checkpoint import agent_log_key, log_origin

    identity = load(home)
    who, public = identity.spiffe, identity.audit_key.public_key().public_bytes_raw()

    def query(log: LogReader) -> int:
        origin = log_origin(who.trust_domain, who.tenant, who.name, log.epoch)
        key = agent_log_key(origin, public)
        known = epoch is None
        return verify_log(log, origin=origin, epoch=log.epoch, key=key, values=known).size

    return read(home, query, epoch)


@click.group()
def command() -> None:
    """Show, find, verify and disclose this agent's records; end or hold their values."""


def _epoch_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option("--epoch", type=int, help="A former epoch of the log.")(function)


@command.command()
@click.argument("reference", required=False)
@click.option("--values", is_flag=True, help="Also the private values (prompts, answers).")
@click.option("--last", default=50, show_default=True, help="Without REFERENCE: so many records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_epoch_option
@home_option
def show(
    reference: str | None,
    values: bool,
    last: int,
    as_json: bool,
    epoch: int | None,
    home: Path | None,
) -> None:
    """Show records: all leaves of a decision id, one by its number, or the newest."""
    from exclave_agent.audit import disclose as records

    def query(log: LogReader) -> list[Shown]:
        if reference is not None:
            seqs = records.find(log, reference)
        else:
            seqs = list(range(max(0, log.size() - last), log.size()))
        return [records.show(log, seq) for seq in seqs]

    print_records(read(load_settings(home).home, query, epoch), values, as_json)


# --- looking for records -------------------------------------------------------------------------

FOLLOW_SECONDS = 0.5


def _moment(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A time, or a day, in UTC unless it says otherwise; nanoseconds since the Unix epoch."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no ISO 8601 time, such as 2026-11-24T09:00:00Z", param=parameter
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000) * 1000


def _wanted_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in reversed(
        (
            click.option("--type", "types", multiple=True, help="INTENT, RESULT ...; repeatable."),
            click.option("--outcome", default="", help="Of a RESULT: answered, denied ..."),
            click.option("--model", default="", help="The model's name."),
            click.option("--rule", default="", help="The rule that decided."),
            click.option("--since", callback=_moment, help="From this time on, ISO 8601."),
            click.option("--until", callback=_moment, help="Before this time."),
            click.option("--text", default="", help="Stands in a private value, in any case."),
        )
    ):
        function = option(function)
    return function


def _wanted(types: tuple[str, ...], since: int | None, until: int | None, **others: str) -> Wanted:
    from exclave_agent.audit.search import FOREVER_NS, Wanted
    from exclave_protocol.leaf import LeafType

    chosen = frozenset(each.upper() for each in types)
    unknown = sorted(chosen - set(LeafType))
    if unknown:
        raise click.UsageError(f"no record is of type {unknown[0]}: {', '.join(LeafType)}")
    end = FOREVER_NS if until is None else until
    return Wanted(chosen, since_ns=since or 0, until_ns=end, **others)


@command.command()
@_wanted_options
@click.option("--limit", default=50, show_default=True, help="The newest so many.")
@click.option("--values", is_flag=True, help="Also the private values.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_epoch_option
@home_option
def search(
    home: Path | None, epoch: int | None, limit: int, values: bool, as_json: bool, **wanted: Any
) -> None:
    """Find records by what stands in them, and by their values."""
    from exclave_agent.audit.search import search as look

    asked = _wanted(**wanted)
    print_records(
        read(load_settings(home).home, lambda log: look(log, asked, limit), epoch), values, as_json
    )


@command.command()
@_wanted_options
@click.option("-n", "--last", default=10, show_default=True, help="Begin with so many.")
@click.option("--follow/--no-follow", "-f", default=True, show_default=True, help="Wait for more.")
@click.option("--values", is_flag=True, help="Also the private values.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each record.")
@home_option
def tail(
    home: Path | None, last: int, follow: bool, values: bool, as_json: bool, **wanted: Any
) -> None:
    """Show the newest records, and each that comes, until interrupted."""
    from exclave_agent.audit.search import search as look

    asked, place = _wanted(**wanted), load_settings(home).home
    first, limit = 0, last

    def query(log: LogReader) -> tuple[list[Shown], int]:
        return look(log, asked, limit, first=first), log.size()

    while True:
        found, first = read(place, query)
        rows = [row_of(shown, values) for shown in found]
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            print_lines(rows)
        if not follow:
            return
        limit = sys.maxsize
        time.sleep(FOLLOW_SECONDS)


@command.command()
@click.argument("decision")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_epoch_option
@home_option
def final(decision: str, as_json: bool, epoch: int | None, home: Path | None) -> None:
    """Say whether a decision is final: whether as many witnesses have cosigned its record as the
    policy wanted. Exits with 3 while it is not."""
    from exclave_agent.audit.final import standing

    found = read(load_settings(home).home, lambda log: standing(log, decision), epoch)
    if as_json:
        row = {"seq": found.seq, "needed": found.needed, "covered": found.covered}
        click.echo(json.dumps({"final": found.final, **row}))
    elif found.needed == 0:
        click.echo(f"final: record {found.seq}; the policy asks for no witness")
    else:
        word = "final" if found.final else "not final yet"
        click.echo(
            f"{word}: record {found.seq}; {found.needed} witnesses have cosigned {found.covered:,} "
            "records"
        )
    if not found.final:
        sys.exit(3)


@command.command()
@click.option(
    "--subject",
    required=True,
    help="Whose: the `user` that callers sent, else their API key's id. - reads it from stdin.",
)
@_epoch_option
@home_option
def commitments(subject: str, epoch: int | None, home: Path | None) -> None:
    """Print the commitments to everything that is kept of a subject, one a line.

    `exclave audit pull --commitments FILE` fetches the evidence of those decisions alone. They do
    not say whose they are.
    """
    from exclave_agent.audit.search import commitments_of

    name = sys.stdin.readline().rstrip("\n") if subject == "-" else subject
    for digest in read(load_settings(home).home, lambda log: commitments_of(log, name), epoch):
        click.echo(digest)


@command.command()
@_epoch_option
@home_option
def verify(epoch: int | None, home: Path | None) -> None:
    """Check every leaf's bytes, hash, place and predecessor, and our newest signed head."""
    click.echo(f"{verify_home(load_settings(home).home, epoch):,} leaves verify")


@command.command()
@click.option("--record", help="Number of the record, or id of a decision.")
@click.option("--seq", type=int, help="Number of the record.")
@click.option("--field", required=True, help="Private field: prompt, context, output ...")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@home_option
def disclose(
    record: str | None, seq: int | None, field: str, output: Path, home: Path | None
) -> None:
    """Write a file that proves one field of one record, and reveals no other.

    That a field was disclosed is itself recorded, before the file is written. Check the file
    against an audit bundle with `exclave-verify --disclosure FILE BUNDLE`.
    """
    from exclave_agent.audit.search import with_field

    settings = load_settings(home)
    if output.exists():
        raise click.UsageError(f"{output} exists: name another file")
    if (record is None) == (seq is None):
        raise click.UsageError("give --record: which record is to be disclosed?")
    if record is not None:
        seq = read(settings.home, with_field(field, record))
    answer = ask(settings, {"do": "disclose", "seq": seq, "field": field})
    data = base64.b64decode(answer["file"])
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    click.echo(f"{output}: field {field} of record {seq}; whoever has this file can read it")


@command.command()
@click.option("--record", required=True, help="Number of the record.", type=int)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@home_option
def prove(record: int, output: Path, home: Path | None) -> None:
    """Write a file that proves that a record is in this log, and shows its public part alone.

    It stands by itself (C2SP tlog-proof). Check it with `exclave-verify --proof FILE --log-key
    VKEY --witness-key VKEY`.
    """
    from exclave_agent.audit.tiled import prove as make

    if output.exists():
        raise click.UsageError(f"{output} exists: name another file")
    proof = read(load_settings(home).home, lambda log: make(log, record))
    with output.open("xb") as file:
        file.write(proof.encode())
    click.echo(f"{output}: record {record}, {len(proof.hashes)} hashes")


@command.command()
@click.option(
    "--since",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="A checkpoint of this log that somebody kept.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--epoch", type=click.IntRange(1), help="Of a former epoch of the log.")
@home_option
def extends(since: Path, output: Path, epoch: int | None, home: Path | None) -> None:
    """Write a file that proves that this log only grew since a checkpoint was made.

    It is what a witness is asked with (C2SP tlog-witness). Check it with `exclave-verify --extends
    FILE --checkpoint SINCE --log-key VKEY --witness-key VKEY`.
    """
    from exclave_agent.audit.tiled import extend

    if output.exists():
        raise click.UsageError(f"{output} exists: name another file")
    kept = since.read_bytes()[: 1 << 17]
    made = read(load_settings(home).home, lambda log: extend(log, kept), epoch)
    with output.open("xb") as file:
        file.write(made.encode())
    click.echo(f"{output}: from {made.old_size:,} leaves on, {len(made.proof)} hashes")


@command.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="A new folder."
)
@click.option("--entries", is_flag=True, help="The records too, not their hashes alone.")
@click.option("--signed", is_flag=True, help="Up to the newest head, though no witness saw it yet.")
@home_option
def tiles(output: Path, entries: bool, signed: bool, home: Path | None) -> None:
    """Write the log as static files: checkpoint and tiles (C2SP tlog-tiles).

    Any web server can serve the folder, and any client of tiled logs reads it. Values are not in
    it. It is written whole or not at all, and was read back under the signed root.
    """
    from exclave_agent.audit.tiled import write_tiles

    made = read(
        load_settings(home).home,
        lambda log: write_tiles(log, output, cosigned=not signed, entries=entries),
    )
    click.echo(f"{output}: {made.size:,} leaves in {made.files:,} files")


@command.command()
@click.option("--reason", required=True, help="Why the log cannot go on; recorded openly.")
@home_option
def recover(reason: str, home: Path | None) -> None:
    """Begin a new epoch of the log, because the present one cannot go on.

    For a home that was copied, put back from a backup, or made anew for an agent whose disk is
    lost. An operator must have opened the epoch (`exclave agent reopen`), and the agent must be
    stopped. What was never cosigned of the old epoch stays in this home, and is no part of the
    new one, which links the last cosigned head and says what lies beyond it.
    """
    import asyncio

    from exclave_agent.recovery import recover as begin

    made = asyncio.run(begin(load_settings(home), reason))
    click.echo(
        f"epoch {made.number} begins at the agent's next start, after {made.size:,} cosigned "
        f"records of {made.origin}"
    )
    if made.held > made.size:
        click.echo(
            f"{made.held - made.size:,} records were never cosigned: nothing vouches for them"
        )


for _each in (subjects.erase, subjects.hold, subjects.lift, subjects.holds):
    command.add_command(_each)
