"""`exclave-agent models`: which models are in memory, what they take, and who would go first."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from exclave_agent.cli import home_option
from exclave_agent.cli.status import NOT_RUNNING

HEADINGS = (
    ("MODEL", "RUNTIME", "STATE", "DEVICE"),
    ("RAM", "VRAM", "RESIDENT", "IN USE", "IDLE", "RELOAD", "PREFIXES"),
)
"""Words to the left, numbers to the right."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are bytes.")
@home_option
def command(as_json: bool, home: Path | None) -> None:
    """Show the models' plan of memory, and what they hold.

    RAM and VRAM are planned, RESIDENT is what the worker's process really holds now, RELOAD what
    its last load took. A model that is evicted is loaded again when somebody asks for it.

    Exit code 0: the agent runs; 3: it does not.
    """
    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.cli.control import status as ask
    from exclave_agent.config import load_settings

    status = ask(load_settings(home).path(CONTROL_SOCKET))
    if status is None:
        click.echo("error: no agent runs in this home", err=True)
        click.echo("hint: start it with `exclave-agent run`", err=True)
        sys.exit(NOT_RUNNING)
    memory = status["memory"]
    click.echo(json.dumps(memory) if as_json else for_people(memory))


def for_people(memory: dict[str, Any]) -> str:
    """The plan as a table, budgets last."""
    models = memory["models"]
    words, numbers = HEADINGS
    rows = [[*words, *numbers], *(_row(one) for one in models)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if at < len(words) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"{one['name']} is degraded: {one['degraded']}" for one in models if one["degraded"]]
    return "\n".join([*(lines if models else ["no models"]), _budgets(memory)])


def _row(one: dict[str, Any]) -> list[str]:
    state = one["state"] + (", kept warm" if one["keep_warm"] else "")
    if one["state"] == "remote":
        return [one["name"], one["runtime"], state, one["device"], *["-"] * len(HEADINGS[1])]
    return [
        one["name"],
        one["runtime"],
        state,
        one["device"],
        _mib(one["ram"]),
        _mib(one["vram"]),
        _mib(one["resident"]),
        str(one["in_use"]),
        f"{one['idle_seconds']:.0f} s",
        f"{one['reload_seconds']:.1f} s",
        _mib(one["stats"]["prefix_bytes"]),
    ]


def _budgets(memory: dict[str, Any]) -> str:
    loaded = [one for one in memory["models"] if one["state"] in ("loaded", "loading")]
    ram, vram = (sum(one[name] for one in loaded) for name in ("ram", "vram"))
    line = f"budget: {_mib(ram)} of {_mib(memory['ram_budget'])} of memory"
    if memory["vram_budget"]:
        line += f", {_mib(vram)} of {_mib(memory['vram_budget'])} of GPU memory"
    return line


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB" if size else "0"
