"""`exclave-agent audit erase | hold | lift | holds`: whose values end, and whose must not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from exclave_agent.cli import home_option
from exclave_agent.cli.records import ask
from exclave_agent.config import load_settings

ERASE_SECONDS = 600.0
"""A large log is looked through for what was the subject's."""


def _subject_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--subject",
        help="Whose: the `user` that callers sent, else their API key's id. - reads it from stdin.",
    )(function)


def _subject(given: str) -> str:
    return sys.stdin.readline().rstrip("\n") if given == "-" else given


@click.command()
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
    done = ask(load_settings(home), asked, seconds=ERASE_SECONDS)
    click.echo(
        f"destroyed: the values of {done['leaves']:,} records and {done['answers']:,} kept "
        f"answers; ERASURE is record {done['seq']}"
    )
    if done["live"]:
        click.echo(
            f"{done['live']} decisions were being answered: what those of this subject recorded "
            "afterwards is kept, so erase again when they have ended"
        )


@click.command()
@_subject_option
@click.option("--all", "everything", is_flag=True, help="Of everybody.")
@click.option("--reference", required=True, help="The case's number; it is recorded openly.")
@home_option
def hold(subject: str | None, everything: bool, reference: str, home: Path | None) -> None:
    """Set a legal hold: until it is lifted, no retention and no erasure ends these values."""
    if (subject is None) is not everything:
        raise click.UsageError("give either --subject or --all: what does the hold stand on?")
    named = None if subject is None else _subject(subject)
    made = ask(load_settings(home), {"do": "hold", "subject": named, "reference": reference})
    click.echo(f"legal hold {made['hold']} stands ({reference})")


@click.command()
@click.argument("name")
@home_option
def lift(name: str, home: Path | None) -> None:
    """End a legal hold; what was due meanwhile ends within minutes."""
    done = ask(load_settings(home), {"do": "lift", "hold": name})
    click.echo(f"legal hold {done['hold']} is lifted ({done['reference']})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def holds(as_json: bool, home: Path | None) -> None:
    """Show the legal holds that stand, and on whom."""
    found = ask(load_settings(home), {"do": "holds"})["holds"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        of = "everybody" if each["subject"] is None else each["subject"]
        click.echo(f"{each['hold']}  {each['since'][:19]}Z  {each['reference']}  {of}")
    if not found:
        click.echo("no legal hold stands")
