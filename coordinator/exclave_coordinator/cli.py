"""The door of `exclave-coordinator`: its version at once, everything else from `commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with its exit code."""
    words = sys.argv[1:] if args is None else args
    if list(words) == ["--version"]:
        # Asked by installers and monitors: it must not wait for click.
        from exclave_service.version import installed

        sys.stdout.write(f"exclave-coordinator, version {installed()}\n")
        return
    from exclave_coordinator.commands import main as commands

    commands(args, prog_name="exclave-coordinator")


def __getattr__(name: str) -> object:
    """`command`, the click command: completion and the manual are made of it."""
    if name != "command":
        raise AttributeError(name)
    from exclave_coordinator.commands import main as commands

    return commands


if __name__ == "__main__":
    main()
