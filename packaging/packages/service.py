"""What a package gives the system besides /opt: units, users, settings; by where they lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packages.catalogue import Package
from packages.tools import ROOT

SOURCE: Final = ROOT / "packaging" / "systemd"
PLACES: Final = (
    ("system", "usr/lib/systemd/system"),
    ("sysusers", "usr/lib/sysusers.d"),
    ("journald", "usr/lib/systemd/journald@exclave.conf.d"),
    ("needrestart", "etc/needrestart/conf.d"),
    ("etc", "etc/exclave"),
    ("drop-ins", "opt/exclave/agent/share/drop-ins"),
)
"""Folder below packaging/systemd, and where its files are installed."""
SHARED: Final = ("journald", "drop-ins")
"""Folders whose files are the agent's whatever they are called."""


def owner(folder: str, name: str) -> str:
    """The package that a file of packaging/systemd goes into."""
    if folder not in SHARED and name.startswith(("exclave-coordinator", "coordinator")):
        return "exclave-coordinator"
    return "exclave-agent"


def files(package: Package) -> Iterator[tuple[Path, str]]:
    """Each file for this package, and its place below the root."""
    for folder, place in PLACES:
        root = SOURCE / folder
        for path in sorted(root.rglob("*")):
            if path.is_file() and owner(folder, path.name) == package.name:
                yield path, f"{place}/{path.relative_to(root)}"


def install(package: Package, stage: Path) -> None:
    """Lay them out below `stage`."""
    for path, place in files(package):
        target = stage / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
