"""Whether a package is still what its sources would give, and the moment that it carries."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from packages import nfpm, service, tools
from packages.catalogue import Package, source_files, source_folder
from packages.cpython import Deb
from packages.tools import ROOT, Refusal

FALLBACK_EPOCH: Final = 1767225600
"""2026-01-01: for sources outside of git."""
RECIPE: Final = (
    "pyproject.toml",
    "packaging/constraints.txt",
    "packaging/packages",
    "packaging/exclave_service/manpages.py",
)


def inputs(package: Package) -> list[Path]:
    """Every file of ours that has a say in a package, sorted."""
    return sorted(set(_inputs(package)))


def _inputs(package: Package) -> Iterator[Path]:
    for name in RECIPE:
        path = ROOT / name
        yield from source_files(path) if path.is_dir() else [path]
    yield from source_files(nfpm.DESCRIPTIONS / package.name)
    for name in package.sources:
        yield from source_files(source_folder(name))
    yield from (path for path, _ in service.files(package))


def epoch(package: Package) -> int:
    """SOURCE_DATE_EPOCH, or when git last saw a change of the package's inputs. Raises: Refusal."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdecimal():
            raise Refusal("SOURCE_DATE_EPOCH is not a number of seconds")
        return int(given)
    folders = {str(path.relative_to(ROOT)) for path in inputs(package)}
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct", "--", *sorted(folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    said = done.stdout.strip()
    return int(said) if done.returncode == 0 and said.isdecimal() else FALLBACK_EPOCH


def key(
    package: Package, version: str, moment: int, debs: Iterable[Deb], wheels: Iterable[str]
) -> str:
    """One digest over everything that goes in."""
    whole = sha256()
    parts = [package.name, version, str(moment)]
    parts += [f"{deb.name} {deb.version} {deb.sha256}" for deb in debs]
    parts += sorted(wheels)
    for path in inputs(package):
        parts += [str(path.relative_to(ROOT)), tools.digest(path)]
    for part in parts:
        whole.update(part.encode() + b"\0")
    return whole.hexdigest()


def fresh(out: Path, package: Package, version: str, wanted: str) -> list[Path]:
    """The package's files, if they are those of `wanted`, untouched; otherwise none."""
    try:
        noted = json.loads(_place(out, package, version).read_text(encoding="ascii"))
        files = [out / name for name in sorted(noted["files"])]
        same = all(tools.digest(path) == noted["files"][path.name] for path in files)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return files if same and noted["key"] == wanted else []


def write(out: Path, package: Package, version: str, wanted: str, files: list[Path]) -> None:
    """Note what was made of what."""
    noted = {"key": wanted, "files": {path.name: tools.digest(path) for path in files}}
    place = _place(out, package, version)
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(noted, indent=2, sort_keys=True) + "\n", encoding="ascii")


def _place(out: Path, package: Package, version: str) -> Path:
    return out / ".stamps" / f"{package.name}-{version}.json"
