"""What the agent can see of its own installation, without rights and without running anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import exclave_agent
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.foothold import PROGRAM
from exclave_agent.upgrade.shelf import read_kept
from exclave_agent.upgrade.state import UNFINISHED, Book, State
from exclave_agent.upgrade.trust import ROOT_FOLDER
from exclave_protocol.errors import PackageError
from exclave_protocol.packages import AGENT, Label, Package

PATH_UNIT: Final = "exclave-upgrade.path"
UNIT_FOLDERS: Final = tuple(
    Path(folder) / "systemd/system" for folder in ("/etc", "/run", "/usr/lib", "/lib")
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where things lie; other places are for tests."""

    program: Path = PROGRAM
    """The installed tree; `share/package.json` in it says which package it came in."""
    code: Path = Path(exclave_agent.__file__)
    """What runs."""
    root_folder: Path = ROOT_FOLDER
    """The root side's, readable for all."""
    manager: Path = Path("/run/systemd/system")
    """Exists where systemd is the service manager."""
    unit_folders: tuple[Path, ...] = UNIT_FOLDERS

    def present(self) -> Label:
        """The package that runs. Raises: UpgradeRefused ("not_installed_by_package")."""
        file = self.program / "share" / "package.json"
        if not self.code.is_relative_to(self.program):
            raise _not_installed(f"this agent runs from {self.code.parent.parent}")
        try:
            value = json.loads(file.read_bytes())
            return Label(AGENT, value["version"], value["architecture"], value["format"])
        except OSError as error:
            raise _not_installed(f"{file} cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, PackageError) as error:
            raise _not_installed(f"{file} does not say format, architecture, version") from error

    def require_root_side(self) -> None:
        """Raises: UpgradeRefused ("unit_missing"): nobody would pick a request up."""
        installed = any((folder / PATH_UNIT).exists() for folder in self.unit_folders)
        if not self.manager.is_dir() or not installed:
            raise UpgradeRefused(
                f"{PATH_UNIT} is not on this machine: only the packaged system service can "
                "upgrade itself",
                code="unit_missing",
            )

    def kept(self) -> list[Package]:
        """Packages that the root side keeps."""
        return read_kept(self.root_folder)

    def progress(self) -> State | None:
        """How the root side's newest upgrade stands; None: it never had one."""
        try:
            return Book(self.root_folder).load()
        except OSError:
            return None

    def busy(self) -> bool:
        """Whether the root side has begun something that it has not finished."""
        return (self.root_folder / UNFINISHED).exists()


def _not_installed(why: str) -> UpgradeRefused:
    return UpgradeRefused(
        f"{why}: only an agent installed by its package upgrades itself",
        code="not_installed_by_package",
    )
