"""The door of `exclave-coordinator`: its version at once, everything else from `commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with its exit code."""
    words = sys.argv[1:] if args is None else args
    if list(words) == ["--version"]:
        # Asked by installers and monitors: it must not wait for click.
        sys.stdout.write(f"exclave-coordinator, version {version()}\n")
        return
    from exclave_coordinator.commands import main as commands

    commands(args, prog_name="exclave-coordinator")


def version() -> str:
    """This installation's version, from the name of its metadata folder.

    Importing importlib.metadata takes longer than all the rest; it is asked where no folder is.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if name.startswith("exclave-") and name.endswith(".dist-info"):
                return name.removeprefix("exclave-").removesuffix(".dist-info")
    from importlib.metadata import version as installed

    return installed("exclave")


def __getattr__(name: str) -> object:
    """`command`, the click command: completion and the manual are made of it."""
    if name != "command":
        raise AttributeError(name)
    from exclave_coordinator.commands import main as commands

    return commands


if __name__ == "__main__":
    main()
