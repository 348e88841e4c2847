"""Run by a product's own interpreter while it is packaged: writes what its command tells of itself.

python3 -I inside.py COMMAND MODULE VERSION EPOCH SUBPAGES SHARE
"""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from exclave_service import manpages

COMPLETIONS = {
    "bash": "bash-completion/completions/{name}",
    "zsh": "zsh/vendor-completions/_{name}",
    "fish": "fish/vendor_completions.d/{name}.fish",
}


def click_command(module: str) -> click.Command | None:
    """The command that a module's `main` runs, whatever it is called; None: it is not click's."""
    loaded = import_module(module)
    for name in ("command", "cli", "main"):
        found = getattr(loaded, name, None)
        if isinstance(found, click.Command):
            return found
    return None


def completions(name: str, command: click.Command, share: Path) -> None:
    """One script per shell, as click writes them."""
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    for shell, place in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None, shell
        target = share / place.format(name=name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = kind(command, {}, name, variable).source()
        target.write_text(text.strip() + "\n", encoding="utf-8")


def help_text(module: str, name: str) -> str:
    """What the command prints for --help."""
    said = io.StringIO()
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        import_module(module).main()
    return said.getvalue()


def main() -> None:
    """See the module's first lines."""
    name, module, version, epoch, subpages, share = sys.argv[1:]
    about = manpages.About(version, datetime.fromtimestamp(int(epoch), UTC).date(), subpages)
    command = click_command(module)
    if command is None:
        written = manpages.of_help(name, help_text(module, name), about)
    else:
        written = manpages.of_command(name, command, about)
        completions(name, command, Path(share))
    folder = Path(share) / "man" / "man1"
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in written.items():
        packed = gzip.compress(text.encode(), compresslevel=9, mtime=0)
        (folder / f"{file}.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
