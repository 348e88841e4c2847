"""`exclave-agent try`: what another policy would have made of this agent's decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import home_option
from exclave_agent.cli.records import read
from exclave_agent.config import load_settings
from exclave_agent.errors import BadRequest

if TYPE_CHECKING:
    from collections import Counter

    from exclave_policy.evaluate import CompiledPolicy
    from exclave_policy.workbench.replay import Replayed

_SHOWN = 5


@click.command()
@click.argument("pack", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--last",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="So many of the newest decisions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def command(pack: Path, last: int, as_json: bool, home: Path | None) -> None:
    """Replay this agent's recorded decisions under PACK, a folder or a packed file.

    Nothing is asked of a model and nothing leaves: the answer is how many decisions would change,
    by the ids of rules. Those numbers hold nothing of the data.
    """
    from exclave_agent.audit.explain import past
    from exclave_policy.workbench.replay import replay

    policy = _policy(pack)
    found = read(load_settings(home).home, lambda log: replay(policy, past(log, last)))
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    _tell(found)


def _policy(path: Path) -> CompiledPolicy:
    """Raises: BadRequest listing the first faults."""
    from exclave_policy.compile import compile_pack
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.pack import MAX_PACK, load_directory, unpack

    try:
        if path.is_dir():
            return compile_pack(load_directory(path))
        with path.open("rb") as file:
            return compile_pack(unpack(file.read(MAX_PACK + 1)))
    except PolicyInvalid as error:
        shown = "\n".join(map(str, error.problems[:_SHOWN]))
        count = len(error.problems)
        raise BadRequest(f"the pack has {count} faults:\n{shown}", param="pack") from error


def _tell(found: Replayed) -> None:
    click.echo(f"{found.total:,} decisions: {found.same:,} as they were, {found.changed:,} change")
    _rows("would be allowed", found.now_allowed)
    _rows("would be denied", found.now_denied)
    _rows("as before, by another rule", found.other_rule)
    if found.not_kept:
        click.echo(f"{found.not_kept:,} not replayed: what was asked is erased, or was not kept")
    if found.not_seen:
        click.echo(f"{found.not_seen:,} not replayed: a condition sees what nobody looked for then")


def _rows(words: str, counter: Counter[tuple[str, str]]) -> None:
    for (before, after), number in sorted(counter.items()):
        click.echo(f"{number:>8,} {words}: {before} -> {after}")
