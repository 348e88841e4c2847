"""`exclave policy diff | explain | try`: ask policies what they would decide."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exclave_ctl import files, output
from exclave_ctl.commands.policy import compile_or_tell, load, pack_argument, policy
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_policy.evaluate import CompiledPolicy
    from exclave_policy.model import Decision, Request

__all__ = ["policy"]
"""The whole group, with what this module adds to it."""

MAX_GIVEN = 64 * 1024
AGENT = "exclave-agent"
given_option = click.option(
    "--given",
    metavar="REQUEST",
    help="What is asked, as in a case: YAML or JSON, or @FILE. "
    "Such as '{roles: [analyst], action: chat, model: smollm2}'.",
)


@policy.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@click.option("--exit-code", is_flag=True, help="Exit 1 when something is different.")
@output.as_json
def diff(old: Path, new: Path, exit_code: bool, as_json: bool) -> None:
    """Say in words what NEW allows or denies that OLD does not.

    Both are asked the same: the requests of both packs' cases, and a grid of everything that either
    of them names. Each change is exact for the requests that were tried; how many those are of how
    many is said.
    """
    from exclave_policy.workbench import diff as differences

    before, after = compile_or_tell(old, as_json), compile_or_tell(new, as_json)
    cases = [*_cases(old, before), *_cases(new, after)]
    found = differences.diff(before, after, cases)
    if as_json:
        output.emit(differences.as_json(found))
    else:
        for change in found.changes:
            click.echo(str(change))
        if found.dropped:
            click.echo(f"and {found.dropped} more changes")
        for line in found.documents:
            click.echo(line)
        for name in found.cases:
            click.echo(f"decided otherwise: case {name!r}")
        if found.same:
            click.echo("nothing is allowed or denied otherwise")
        whole = "all" if found.tried == found.of else f"{found.tried:,} of {found.of:,}"
        output.note(f"{whole} requests of the grid were tried")
    if exit_code and not found.same:
        raise CtlError("the policies differ", "see the changes above")


@policy.command()
@pack_argument
@given_option
@click.option("--values", is_flag=True, help="Also texts that the policy does not hold.")
@output.as_json
def explain(pack: Path, given: str | None, values: bool, as_json: bool) -> None:
    """Say why PACK decides a request as it does: every rule about it, and each term's value."""
    from exclave_policy.workbench import explain as explaining

    compiled = compile_or_tell(pack, as_json)
    found = explaining.explain(compiled, _request(given), full=values)
    if as_json:
        output.emit(_decision(found.decision) | {"rules": explaining.as_json(found.rules)})
        return
    click.echo(_words(found.decision))
    for line in explaining.told(found.rules):
        click.echo(line)


@policy.command("try")
@pack_argument
@given_option
@click.option(
    "--against-log",
    "home",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="HOME",
    help="Replay the decisions recorded in an agent's home on this machine; only counts come out.",
)
@output.as_json
def try_(pack: Path, given: str | None, home: Path | None, as_json: bool) -> None:
    """What PACK decides: about one request, or about all that an agent has decided."""
    if (given is None) == (home is None):
        raise click.UsageError("give one of --given and --against-log")
    compiled = compile_or_tell(pack, as_json)
    if home is not None:
        _replay(pack, home, as_json)
        return
    decision = compiled.evaluate(_request(given))
    if as_json:
        output.emit(_decision(decision))
    else:
        click.echo(_words(decision))


def _replay(pack: Path, home: Path, as_json: bool) -> None:
    """By the agent's own program: the log is its to read, and its words stay there."""
    program = shutil.which(AGENT)
    if program is None:
        raise CtlError(
            f"{AGENT} is not installed on this machine",
            "replay where the agent's log is: it never leaves that machine",
        )
    command = [program, "try", str(pack), "--home", str(home), *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        raise CtlError(
            told[0].removeprefix("error: ") if told else f"{AGENT} try failed",
            f"run `{AGENT} try` as the user that owns the home",
        )
    click.echo(done.stdout, nl=False)


def _cases(path: Path, compiled: CompiledPolicy) -> list[tuple[str, Request]]:
    """The requests of a pack's cases; one without cases has none."""
    from exclave_policy.workbench.cases import read_cases

    pack = load(path)
    return (
        [(case.name, case.request) for case in read_cases(pack, compiled)] if pack.cases() else []
    )


def _request(given: str | None) -> Request:
    """Raises: UsageError, CtlError listing the faults."""
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.workbench.given import request_from

    if given is None:
        raise click.UsageError("--given is missing: what is asked")
    if given.startswith("@"):
        raw = files.read(Path(given[1:]), MAX_GIVEN, "request")
        given = raw.decode("utf-8", "surrogateescape")
    try:
        return request_from(given)
    except PolicyInvalid as error:
        listed = "; ".join(map(str, error.problems))
        raise CtlError(
            f"the request cannot be read: {listed}", "its fields are those of a case's given"
        ) from error


def _decision(decision: Decision) -> dict[str, Any]:
    obligations = {
        name: getattr(decision.obligations, name)
        for name in ("validators", "redactions", "approvals", "retention", "notices")
    }
    would = decision.would
    told: dict[str, Any] = {
        "allowed": decision.allowed,
        "rule": decision.rule,
        "reason": decision.reason,
        "matched": decision.matched,
        "max_tokens": decision.max_tokens,
        "obligations": obligations,
        "would": None if would is None else {"allowed": would.allowed, "rule": would.rule},
    }
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found


def _words(decision: Decision) -> str:
    words = [f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}"]
    if decision.max_tokens is not None:
        words.append(f"at most {decision.max_tokens} tokens of answer")
    for name in ("validators", "redactions", "approvals", "notices"):
        if named := getattr(decision.obligations, name):
            words.append(f"{name}: {', '.join(named)}")
    if decision.obligations.retention:
        words.append(f"retention: {decision.obligations.retention}")
    if decision.would is not None:
        word = "allowed" if decision.would.allowed else "denied"
        words.append(f"with audited rules enforced: {word} by {decision.would.rule}")
    return "\n".join(words)
