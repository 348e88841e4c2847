"""`exclave-agent support-bundle`: one file for whoever helps, shown before it is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import explain, roots_home_option
from exclave_agent.config import DEFAULT_HOME

if TYPE_CHECKING:
    from exclave_agent.doctor.collect import Piece
    from exclave_agent.doctor.host import Host


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; a new one. [default: exclave-support-TIME.tar.gz]",
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--list", "only_list", is_flag=True, help="Show what would be inside; write nothing.")
@click.option("--offline", is_flag=True, help="Stay off the network.")
@click.option("--hide-names", is_flag=True, help="Replace tenant, agent, host, user and home.")
@roots_home_option
def command(
    output: Path | None,
    yes: bool,
    only_list: bool,
    offline: bool,
    hide_names: bool,
    home: Path | None,
) -> None:
    """Collect what support needs into one file: findings, versions, figures, our log.

    No prompt, answer, key, token or database row is inside, and what looks like a secret is taken
    out. The list is shown first, and nothing leaves this machine by itself.
    """
    from datetime import UTC, datetime

    from exclave_agent.doctor import bundle
    from exclave_agent.system import SystemClock

    if not (yes or only_list or _terminal()):
        raise click.UsageError("there is no terminal to ask at: say --yes, or --list to look first")
    at = SystemClock().now_ns() // 1_000_000_000
    path = output or Path(f"exclave-support-{datetime.fromtimestamp(at, UTC):%Y%m%d-%H%M%S}.tar.gz")
    if not only_list and path.exists():
        raise click.UsageError(f"{path} exists: name another file")
    pieces = _apart(home, lambda: _collect(home, offline=offline, hide_names=hide_names))
    for line in bundle.listing(pieces):
        click.echo(line)
    if only_list:
        return
    if not yes and not click.confirm(f"Write these into {path}?"):
        click.echo("nothing was written")
        sys.exit(1)
    bundle.write(path, bundle.pack(pieces, at))
    click.echo(f"{path}: look into it, then hand it on yourself")


def _terminal() -> bool:
    return sys.stdin.isatty()


def _collect(home: Path | None, *, offline: bool, hide_names: bool) -> list[Piece]:
    from exclave_agent.cli.doctor import look
    from exclave_agent.doctor.collect import collect, identifying

    site = look(home, offline=offline, first=_journal)
    names = identifying(site) if hide_names else None
    return list(collect(site, names))


def _journal(host: Host) -> None:
    """Root may read the journal, and the home's user may not."""
    from exclave_agent.doctor import journal

    if host.uid == 0:
        host.remember(runs=[(journal.COMMAND, journal.SECONDS)])


def _apart(home: Path | None, work: Callable[[], list[Piece]]) -> list[Piece]:
    """The work's result. Where it gives up root, a child process does it: the file is to be
    written where root stands, in a folder that the home's user may not write to."""
    from exclave_agent.doctor.collect import Piece

    folder = home or Path(os.environ.get("EXCLAVE_HOME") or DEFAULT_HOME)
    if os.geteuid() != 0 or not folder.is_dir() or folder.stat().st_uid == 0:
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _send(writing, work)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(1)  # the child said why
    return [Piece(**one) for one in json.loads(data)]


def _send(writing: int, work: Callable[[], list[Piece]]) -> None:
    """Do the work and end this process, whatever happens."""
    code = 1
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps([asdict(piece) for piece in work()]).encode())
        code = 0
    except Exception as error:  # noqa: BLE001 - it must be told here: nobody is above
        for line in explain(error):
            click.echo(line, err=True)
    finally:
        os._exit(code)
