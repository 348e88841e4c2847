"""What commands print: JSON for programs, tables and plain lines for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from exclave_ctl.errors import CtlError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
"""The option that every printing command takes."""

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(value: str | int) -> int:
    """Option type: `90s`, `30m`, `24h`, `30d` or plain seconds, to seconds.

    Raises: click.BadParameter.
    """
    match = _DURATION.fullmatch(str(value))
    if match is None:
        raise click.BadParameter("must be a number and s, m, h or d, such as 24h")
    return int(match[1]) * _UNITS[match[2]]


def moment(value: str | int) -> int:
    """Option type: an RFC 3339 time or a date (UTC midnight), to seconds since the epoch.

    Raises: click.BadParameter.
    """
    if isinstance(value, int):
        return value
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError as error:
        raise click.BadParameter("must be an RFC 3339 time such as 2026-11-22T21:30:00Z") from error
    if parsed.tzinfo is None:
        if len(value) > len("2026-11-22"):
            raise click.BadParameter("lacks its zone: end it with Z or an offset")
        parsed = parsed.replace(tzinfo=UTC)
    return int(parsed.timestamp())


def emit(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def note(text: str) -> None:
    """A line for people on stderr: never mixed with what programs read."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """Something the operator should know; the command goes on."""
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table on stdout; uncut and unboxed when it goes to a file or another program.

    Without rows: `empty` on stderr ("": nothing).
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        if empty:
            note(empty)
        return
    if not sys.stdout.isatty():
        lines = [list(columns), *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            click.echo("  ".join(padded).rstrip())
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        grid.add_column(column)
    for line in cells:
        grid.add_row(*(escape(cell) for cell in line))
    Console().print(grid)


def when(seconds: int) -> str:
    """Seconds since the epoch as RFC 3339, UTC; 0 as `never`."""
    return (
        datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else "never"
    )


def span(seconds: int) -> str:
    """Seconds as the largest whole unit: 86400 as 1d, 5400 as 90m."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


@contextmanager
def transfer(total: int | None, verb: str) -> Iterator[Callable[[str, int], None]]:
    """Progress of bytes on stderr: call with what is moving and how many bytes moved.

    `total` None: unknown. Silent when stderr is not a terminal.
    """
    if not sys.stderr.isatty() or total == 0:
        yield lambda _what, _size: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(verb, total=total)

        def moved(what: str, size: int) -> None:
            bar.update(task, advance=size, description=f"{verb} {what}")

        yield moved


def ask_passphrase(file: str | None, *, confirm: bool = False) -> bytes:
    """The passphrase from a file's first line, or asked on the terminal. Raises: CtlError."""
    if file is not None:
        try:
            with open(file, "rb") as source:
                return source.readline(4096).rstrip(b"\r\n")
        except OSError as error:
            raise CtlError(f"cannot read passphrase file {file}: {error.strerror}") from error
    if not sys.stdin.isatty():
        raise CtlError(
            "a passphrase is needed and there is no terminal to ask on",
            "pass --passphrase-file FILE",
        )
    answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer.encode()
