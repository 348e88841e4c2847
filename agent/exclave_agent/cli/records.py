"""What the commands on records share: reading them, asking the agent about them, showing them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exclave_agent.config import Settings

if TYPE_CHECKING:
    from exclave_agent.audit.disclose import Shown
    from exclave_agent.audit.store import LogReader

T = TypeVar("T")


def read(home: Path, query: Callable[[LogReader], T], epoch: int | None = None) -> T:
    """Run a query on the log of a home, whether or not its agent runs; None: its present epoch."""
    from exclave_agent.storage.home import read_log

    return read_log(home, query, epoch)


def ask(settings: Settings, asked: dict[str, Any], *, seconds: float = 30.0) -> dict[str, Any]:
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


def row_of(shown: Shown, values: bool) -> dict[str, Any]:
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


def print_records(found: Sequence[Shown], values: bool, as_json: bool) -> None:
    rows = [row_of(shown, values) for shown in found]
    if as_json:
        click.echo(json.dumps(rows))
        return
    print_lines(rows)


def print_lines(rows: Sequence[dict[str, Any]]) -> None:
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
