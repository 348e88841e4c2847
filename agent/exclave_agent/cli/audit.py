"""`exclave-agent audit`: this agent's records, with values for those who may read the home; whose
values end, and whose must not."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exclave_agent.cli import home_option
from exclave_agent.config import Settings, load_settings

if TYPE_CHECKING:
    from exclave_agent.audit.disclose import Shown
    from exclave_agent.audit.search import Wanted
    from exclave_agent.audit.store import LogReader

T = TypeVar("T")


def read(home: Path, query: Callable[[LogReader], T]) -> T:
    """Run a query on the log of a home, whether or not its agent runs."""
    from exclave_agent.audit.checkpoint import EPOCH
    from exclave_agent.storage.home import read_log

    return read_log(home, EPOCH, query)


def verify_home(home: Path) -> int:
    """Check the whole log of a home; returns the number of leaves. Raises: StorageError."""
    from exclave_agent.audit.checkpoint import EPOCH, log_key
    from exclave_agent.audit.verify import verify_log
    from exclave_agent.identity.store import load

    identity = load(home)
    key = log_key(identity.spiffe, identity.audit_key)
    verify = key.verify_key
    state = read(home, lambda log: verify_log(log, origin=key.name, epoch=EPOCH, key=verify))
    return state.size


def _row(shown: Shown, values: bool) -> dict[str, Any]:
    from exclave_protocol.leaf import format_time

    leaf = shown.leaf
    row: dict[str, Any] = {
        "seq": leaf.seq,
        "type": str(leaf.type),
        "time": format_time(leaf.time_ns),
        "hash": shown.hash.hex(),
        "body": dict(leaf.body),
        "private": sorted(shown.disclosures),
    }
    if values:
        row["values"] = shown.fields
    return row


@click.group()
def command() -> None:
    """Show, find, verify and disclose this agent's records; end or hold their values."""


@command.command()
@click.argument("reference", required=False)
@click.option("--values", is_flag=True, help="Also the private values (prompts, answers).")
@click.option("--last", default=50, show_default=True, help="Without REFERENCE: so many records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def show(reference: str | None, values: bool, last: int, as_json: bool, home: Path | None) -> None:
    """Show records: all leaves of a decision id, one by its number, or the newest."""
    from exclave_agent.audit import disclose as records

    def query(log: LogReader) -> list[Shown]:
        if reference is not None:
            seqs = records.find(log, reference)
        else:
            seqs = list(range(max(0, log.size() - last), log.size()))
        return [records.show(log, seq) for seq in seqs]

    _print(read(load_settings(home).home, query), values, as_json)


def _print(found: Sequence[Shown], values: bool, as_json: bool) -> None:
    rows = [_row(shown, values) for shown in found]
    if as_json:
        click.echo(json.dumps(rows))
        return
    _print_lines(rows)


def _print_lines(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(f"{row['seq']:>6} {row['time'][:19]}Z {row['type']:14} {_line(row['body'])}")
        for name, value in row.get("values", {}).items():
            click.echo(f"       {name}: {json.dumps(value, ensure_ascii=False)}")


def _line(body: dict[str, Any]) -> str:
    """The fields of a leaf that people look for first."""
    wanted = ("decision", "action", "outcome", "reason", "release", "generation")
    parts = [f"{key}={body[key]}" for key in wanted if isinstance(body.get(key), str)]
    for key in ("model", "policy"):
        inner = body.get(key)
        if isinstance(inner, dict):
            shown = inner.get("name") or inner.get("rule")
            parts += [f"{key}={shown}"] if shown else []
    return " ".join(parts)


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
@home_option
def search(home: Path | None, limit: int, values: bool, as_json: bool, **wanted: Any) -> None:
    """Find records by what stands in them, and by their values."""
    from exclave_agent.audit.search import search as look

    asked = _wanted(**wanted)
    _print(read(load_settings(home).home, lambda log: look(log, asked, limit)), values, as_json)


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
        rows = [_row(shown, values) for shown in found]
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            _print_lines(rows)
        if not follow:
            return
        limit = sys.maxsize
        time.sleep(FOLLOW_SECONDS)


@command.command()
@home_option
def verify(home: Path | None) -> None:
    """Check every leaf's bytes, hash, place and predecessor, and our newest signed head."""
    click.echo(f"{verify_home(load_settings(home).home):,} leaves verify")


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
    answer = _ask(settings, {"do": "disclose", "seq": seq, "field": field})
    data = base64.b64decode(answer["file"])
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    click.echo(f"{output}: field {field} of record {seq}; whoever has this file can read it")


def _ask(settings: Settings, asked: dict[str, Any], *, seconds: float = 30.0) -> dict[str, Any]:
    """Through the running agent, which alone may append to its log; else with the log opened."""
    import asyncio

    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.cli.control import post
    from exclave_agent.custody import answer_offline
    from exclave_agent.errors import BadRequest

    answer = post(settings.path(CONTROL_SOCKET), "/records", asked, seconds=seconds)
    if answer is None:
        return dict(asyncio.run(answer_offline(settings, asked)))
    if "error" in answer:
        raise BadRequest(str(answer["error"]))
    return answer


# --- subjects ------------------------------------------------------------------------------------

ERASE_SECONDS = 600.0
"""A large log is looked through for what was the subject's."""


def _subject_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--subject",
        help="Whose: the `user` that callers sent, else their API key's id. - reads it from stdin.",
    )(function)


def _subject(given: str) -> str:
    return sys.stdin.readline().rstrip("\n") if given == "-" else given


@command.command()
@_subject_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
def erase(subject: str | None, yes: bool, home: Path | None) -> None:
    """Destroy everything that is kept of a subject, for good.

    Its key is destroyed, the sealed values are overwritten, and an ERASURE says that this was
    done, not of whom. The records themselves stay, and verify. A legal hold refuses it. Backups,
    and answers that were given to somebody, are beyond its reach.
    """
    if subject is None:
        raise click.UsageError("--subject is missing: whose values are to go?")
    if not yes:
        click.confirm("Nobody can bring these values back. Destroy them?", abort=True)
    asked = {"do": "erase", "subject": _subject(subject)}
    done = _ask(load_settings(home), asked, seconds=ERASE_SECONDS)
    click.echo(
        f"destroyed: the values of {done['leaves']:,} records and {done['answers']:,} kept "
        f"answers; ERASURE is record {done['seq']}"
    )
    if done["live"]:
        click.echo(
            f"{done['live']} decisions were being answered: what those of this subject recorded "
            "afterwards is kept, so erase again when they have ended"
        )


@command.command()
@_subject_option
@click.option("--all", "everything", is_flag=True, help="Of everybody.")
@click.option("--reference", required=True, help="The case's number; it is recorded openly.")
@home_option
def hold(subject: str | None, everything: bool, reference: str, home: Path | None) -> None:
    """Set a legal hold: until it is lifted, no retention and no erasure ends these values."""
    if (subject is None) is not everything:
        raise click.UsageError("give either --subject or --all: what does the hold stand on?")
    named = None if subject is None else _subject(subject)
    made = _ask(load_settings(home), {"do": "hold", "subject": named, "reference": reference})
    click.echo(f"legal hold {made['hold']} stands ({reference})")


@command.command()
@click.argument("name")
@home_option
def lift(name: str, home: Path | None) -> None:
    """End a legal hold; what was due meanwhile ends within minutes."""
    done = _ask(load_settings(home), {"do": "lift", "hold": name})
    click.echo(f"legal hold {done['hold']} is lifted ({done['reference']})")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def holds(as_json: bool, home: Path | None) -> None:
    """Show the legal holds that stand, and on whom."""
    found = _ask(load_settings(home), {"do": "holds"})["holds"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        of = "everybody" if each["subject"] is None else each["subject"]
        click.echo(f"{each['hold']}  {each['since'][:19]}Z  {each['reference']}  {of}")
    if not found:
        click.echo("no legal hold stands")
