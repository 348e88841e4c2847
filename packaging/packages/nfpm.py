"""From a laid-out tree to .deb and .rpm: the description that nfpm reads, and its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from packages import deb, tools
from packages.catalogue import Package, project
from packages.elf import Needs
from packages.tools import ROOT, Refusal, run
from packages.tree import OPT

DESCRIPTIONS: Final = ROOT / "packaging" / "nfpm"
SCRIPTS: Final = {
    "postinstall": "postinst",
    "preremove": "prerm",
    "postremove": "postrm",
}
FORMATS: Final = ("deb", "rpm")
VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+){2}(?:rc[0-9]+)?")
_ZSH: Final = {"deb": "zsh/vendor-completions", "rpm": "zsh/site-functions"}
"""Where the two families' zsh looks."""


def check_version(version: str) -> None:
    """Raises: Refusal for a version that one of Python, Debian and RPM would misread."""
    if VERSION.fullmatch(version) is None:
        raise Refusal(f"not a version: {version}", "write it like 1.2.3 or 1.2.3rc1")


def package_version(version: str) -> str:
    """A candidate must sort before its release: 1.2.3~rc1 in both families."""
    return re.sub(r"rc", "~rc", version)


def file_name(package: Package, version: str, kind: str) -> str:
    """As nfpm calls it, by each family's custom."""
    if kind == "deb":
        return f"{package.name}_{package_version(version)}_amd64.deb"
    return f"{package.name}-{package_version(version)}-1.x86_64.rpm"


def describe(
    package: Package, version: str, epoch: int, stage: Path, needs: Needs
) -> dict[str, Any]:
    """The whole description: the package's own file, completed. Raises: Refusal."""
    path = DESCRIPTIONS / package.name / "nfpm.yaml"
    written: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = written["overrides"]
    overrides["deb"]["depends"] += needs.debs
    overrides["rpm"]["depends"] += needs.sonames
    scripts = {
        key: str(path.parent / name)
        for key, name in SCRIPTS.items()
        if (path.parent / name).exists()
    }
    return {
        **written,
        "name": package.name,
        "version": package_version(version),
        "version_schema": "none",
        "arch": "amd64",
        "platform": "linux",
        "maintainer": "Exclave <ops@exclave.invalid>",
        "vendor": "Exclave",
        "license": project()["project"]["license"],
        "mtime": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "umask": 0o022,
        "disable_globbing": True,
        "contents": [*contents(package, stage), *labels(package, version, epoch, stage)],
        "scripts": scripts,
    }


def contents(package: Package, stage: Path) -> Iterator[dict[str, Any]]:
    """What is installed: our own folder as a tree, each file elsewhere by its name.

    Folders outside of /opt/exclave belong to the system, /etc/exclave and our documentation
    aside.
    """
    home = f"{OPT}/{package.folder}"
    for folder in _folders(package, stage):
        yield {"dst": f"/{folder}", "type": "dir", "file_info": {"mode": 0o755}}
    yield {"src": str(stage / home), "dst": f"/{home}", "type": "tree"}
    for path in sorted(stage.rglob("*")):
        place = str(path.relative_to(stage))
        if path.is_file() and not place.startswith(f"{OPT}/"):
            yield from _file(path, place)
    for command in package.commands:
        if command.on_path:
            target = f"/{home}/bin/{command.name}"
            yield {"src": target, "dst": f"/usr/bin/{command.name}", "type": "symlink"}


def labels(package: Package, version: str, epoch: int, stage: Path) -> Iterator[dict[str, Any]]:
    """What the installed program knows of the package that it came in, in that family's words."""
    if not package.interpreter:
        return
    known = package_version(version)
    told = {
        "deb": {"architecture": "amd64", "format": "deb", "version": known},
        "rpm": {"architecture": "x86_64", "format": "rpm", "version": f"{known}-1"},
    }
    for kind, label in told.items():
        path = stage.with_name(f"package-{kind}.json")
        path.write_text(json.dumps(label, sort_keys=True) + "\n", encoding="ascii")
        os.utime(path, (epoch, epoch))
        yield {
            "src": str(path),
            "dst": f"/{OPT}/{package.folder}/share/package.json",
            "file_info": {"mode": 0o644},
            "packager": kind,
        }


def _folders(package: Package, stage: Path) -> list[str]:
    candidates = [
        OPT,
        *(f"{OPT}/{parent}" for parent in map(str, Path(package.folder).parents) if parent != "."),
        f"usr/share/doc/{package.name}",
        "etc/exclave",
    ]
    return [folder for folder in candidates if (stage / folder).is_dir()]


def _file(path: Path, place: str) -> Iterator[dict[str, Any]]:
    entry: dict[str, Any] = {"src": str(path), "dst": f"/{place}", "file_info": {"mode": 0o644}}
    if place.startswith("etc/"):
        entry["type"] = "config|noreplace"
    if _ZSH["deb"] not in place:
        yield entry
        return
    for kind, folder in _ZSH.items():
        yield {**entry, "dst": entry["dst"].replace(_ZSH["deb"], folder), "packager": kind}


def pack(package: Package, description: dict[str, Any], scratch: Path, out: Path) -> list[Path]:
    """Write both packages into `out`; returns their paths. Raises: Refusal."""
    config = scratch / "nfpm.yaml"
    config.write_text(yaml.safe_dump(description, sort_keys=True), encoding="utf-8")
    made = []
    version = description["version"].replace("~rc", "rc")
    epoch = datetime.strptime(description["mtime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    for kind in FORMATS:
        target = out / file_name(package, version, kind)
        # Written beside and renamed: a package that is there is whole.
        half = target.with_suffix(target.suffix + ".half")
        run(
            [tools.nfpm(), "package", "-f", config, "-p", kind, "-t", half],
            env={"SOURCE_DATE_EPOCH": str(int(epoch.timestamp()))},
        )
        if kind == "deb":
            deb.repack(half, scratch)
        half.replace(target)
        made.append(target)
    return made
