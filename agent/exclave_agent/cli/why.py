"""`exclave-agent explain`: why a decision is what it is, from the record alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from exclave_agent.cli import home_option
from exclave_agent.cli.records import read
from exclave_agent.config import load_settings


@click.command()
@click.argument("decision")
@click.option("--values", is_flag=True, help="Also the words of callers: workflows, runs, labels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def command(decision: str, values: bool, as_json: bool, home: Path | None) -> None:
    """Say why DECISION (its id, or the number of a record of it) is what it is.

    Shows the rules that matched, the terms of their conditions with the values that they had, what
    audited rules would have done, and what was granted. It needs no running agent and no policy:
    the record keeps what it takes, until the subject is erased.
    """
    from exclave_agent.audit.explain import explain

    why = read(load_settings(home).home, lambda log: explain(log, decision, full=values))
    if as_json:
        click.echo(json.dumps(why.as_json()))
        return
    for line in why.lines():
        click.echo(line)
