"""Completion and manual pages, made by the commands themselves, run by their own interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from packages.catalogue import Command, Package
from packages.tools import run

INSIDE: Final = Path(__file__).with_name("inside.py")


def write(package: Package, version: str, epoch: int, home: Path, share: Path) -> None:
    """Fill man/, bash-completion/, zsh/ and fish/ below `share`. Raises: Refusal."""
    for command in package.commands:
        if command.on_path:
            run(_command(package, command, version, epoch, home, share))


def _command(
    package: Package, command: Command, version: str, epoch: int, home: Path, share: Path
) -> list[str | Path]:
    python = home / "runtime" / "bin" / "python3"
    line: list[str | Path] = [python, "-B", "-I", INSIDE, command.name, command.module]
    line += [version, str(epoch), package.subpages, share]
    return line
