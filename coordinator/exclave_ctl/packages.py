"""Packages of our daemons among a tenant's signed targets: added, kept, dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exclave_ctl.errors import CtlError
from exclave_ctl.workspace import Workspace
from exclave_protocol.errors import PackageError
from exclave_protocol.packages import Package, newest_of_each, packages_in

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets

KEPT: Final = 3
"""Versions of each package that stay among the targets: agents need the one they run, to revert
to, and the next one."""


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What shall become of the packages; by default all stay."""

    add: tuple[Path, ...] = ()
    drop: tuple[str, ...] = ()
    """Versions."""


def packages_of(targets: Targets) -> list[Package]:
    """The packages that targets metadata names. Raises: CtlError."""
    try:
        return packages_in(targets)
    except PackageError as error:
        raise CtlError(
            error.message, "do not sign: get the drafts again from where they were built"
        ) from error


def with_packages(
    workspace: Workspace, targets: Targets | None, plan: PackagePlan
) -> dict[str, TargetFile]:
    """The package entries of the next targets: those before, changed as planned.

    A package replaces another file of its name, version, format and architecture; of each, the
    newest KEPT versions stay. Raises: CtlError.
    """
    from exclave_protocol.tufmeta import target_file

    before = [] if targets is None else packages_of(targets)
    for version in plan.drop:
        if not any(package.version == version for package in before):
            raise CtlError(
                f"no published package has version {version}",
                "`exclave release show` lists the packages",
            )
    added = [_read(workspace, path) for path in plan.add]
    replaced = {package.label for package in added}
    stay = [p for p in before if p.version not in plan.drop and p.label not in replaced]
    kept = newest_of_each(stay + added, KEPT)
    for package in added:
        if package not in kept:
            raise CtlError(
                f"{package.label.name} {package.version} is older than the {KEPT} newest versions",
                "drop newer ones first: --drop VERSION",
            )
    return {p.path: target_file(p.path, p.sha256, p.length, p.custom()) for p in kept}


def without_packages(entries: Mapping[str, TargetFile], targets: Targets) -> dict[str, TargetFile]:
    """Entries less the packages of `targets`. Raises: CtlError."""
    packages = {package.path for package in packages_of(targets)}
    return {path: entry for path, entry in entries.items() if path not in packages}


def _read(workspace: Workspace, path: Path) -> Package:
    from exclave_protocol.package_files import read_package

    try:
        package = read_package(path)
    except PackageError as error:
        raise CtlError(f"{path}: {error.message}") from error
    except OSError as error:
        raise CtlError(f"cannot read package {path}: {error.strerror}") from error
    workspace.add_file(package.sha256, path)
    return package


def lines(packages: Sequence[Package]) -> list[str]:
    """One line each, for people who sign."""
    return [
        f"{p.label.name} {p.version} ({p.label.format}, {p.label.architecture}): {p.sha256}"
        for p in packages
    ]
