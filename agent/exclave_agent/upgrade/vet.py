"""Vet: may this request be carried out? Everything is judged by what root itself holds.

In the order of the numbers; each is a refusal of its own, and nothing is changed by any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tuf.api import exceptions as tuf_errors

from exclave_agent.errors import AgentError, LinkError
from exclave_agent.releases.tuf_client import Fetcher, refresh
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.letters import Request
from exclave_agent.upgrade.mailbox import Mailbox
from exclave_agent.upgrade.ports import Installed, InstallFailed, PackageManager
from exclave_agent.upgrade.refusals import cannot_revert, free_space, refuse_full, refuse_older
from exclave_agent.upgrade.shelf import Shelf
from exclave_agent.upgrade.trust import Trust, read_trust
from exclave_protocol.errors import MetadataError, PackageError
from exclave_protocol.packages import AGENT, ANY_ARCHITECTURE, Package, compare, packages_in
from exclave_protocol.tufmeta import load_targets, root_pin
from exclave_protocol.wire import MAX_METADATA

METADATA: Final = "tuf"
"""Root's own memory of the metadata seen, against rollback; in its folder."""
FIRST_ROOT: Final = "1.root.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that may be carried out; both files are verified and on the shelf."""

    present: Package
    target: Package


class StagedFetcher(Fetcher):
    """tuf's fetching from what the agent staged."""

    def __init__(self, mailbox: Mailbox, request_id: str) -> None:
        self._mailbox = mailbox
        self._id = request_id
        self.trouble: UpgradeRefused | None = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = self.named(url)
        try:
            data = self._mailbox.metadata(self._id, name, MAX_METADATA)
        except UpgradeRefused as error:
            self.trouble = error
            raise tuf_errors.DownloadError(error.message) from error
        if data is None:
            # For root N+1 this is how tuf learns that root N is the newest.
            raise tuf_errors.DownloadHTTPError(f"{name} is not staged", 404)
        self.last = (name, data)
        return iter([data])


class Vetting:
    """What a request is held against."""

    def __init__(
        self,
        folder: Path,
        mailbox: Mailbox,
        shelf: Shelf,
        packages: Callable[[], PackageManager | None],
        *,
        disks: tuple[Path, ...],
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """`folder` is root's; `packages` finds the manager that installed the agent; `disks`
        are places on the disks that an installation fills."""
        self._folder = folder
        self._mailbox = mailbox
        self._shelf = shelf
        self._packages = packages
        self._disks = disks
        self._free = free

    def vet(self, request: Request, now: int) -> Plan:
        """1. root knows whom to trust; 2. the agent was installed by a package, and whole;
        3. the staged metadata is signed by them and fresh; 4. both packages are in it, the
        former one unless it is kept; 5. each is the agent's, for this machine; 6. the new one is
        another version, and an older one only if that was said; 7. the disks have room; 8. the
        files are the signed ones, and say the same of themselves.

        Raises: UpgradeRefused, ReleaseRefused (3).
        """
        trust = read_trust(self._folder)
        manager = self._packages()
        installed = self._installed(manager)
        assert manager is not None
        signed = {package.sha256: package for package in self._signed(request, trust, now)}
        target = signed.get(request.package)
        if target is None:
            raise UpgradeRefused(
                "the package asked for is not among the tenant's signed targets", code="no_package"
            )
        _check_fits(target, manager.form, installed)
        _check_version(target, installed, downgrade=request.downgrade)
        present = self._former(request, signed, installed)
        _check_fits(present, manager.form, installed)
        for disk in self._disks:
            refuse_full(disk, self._free(disk), target.length)
        for package in (present, target):
            self._fetch(request, package)
        return Plan(present, target)

    def _installed(self, manager: PackageManager | None) -> Installed:
        try:
            installed = None if manager is None else manager.installed(AGENT)
        except InstallFailed as error:
            raise UpgradeRefused(
                f"the package manager does not answer: {error}", code="package_broken"
            ) from error
        if installed is None:
            raise UpgradeRefused(
                f"no package {AGENT} is installed on this machine: what runs came another way, "
                "and is upgraded that way",
                code="not_installed_by_package",
            )
        if not installed.whole:
            raise UpgradeRefused(
                f"{AGENT} {installed.version} is installed by half: finish that first "
                "(dpkg --configure -a)",
                code="package_broken",
            )
        return installed

    def _signed(self, request: Request, trust: Trust, now: int) -> list[Package]:
        pinned = self._mailbox.metadata(request.id, FIRST_ROOT, MAX_METADATA)
        try:
            if pinned is None or root_pin(pinned) != trust.root_pin:
                raise UpgradeRefused(
                    "root version 1 as staged is not the one that this machine was installed with",
                    code="root_mismatch",
                )
            fetcher = StagedFetcher(self._mailbox, request.id)
            seen = self._folder / METADATA
            try:
                refresh(seen, pinned, fetcher, datetime.fromtimestamp(now, UTC))
            except AgentError as error:
                if fetcher.trouble is not None:
                    raise fetcher.trouble from error
                if isinstance(error, LinkError):
                    raise UpgradeRefused(error.message, code="fetch_failed") from error
                raise
            return packages_in(load_targets((seen / "targets.json").read_bytes()).signed)
        except (MetadataError, PackageError) as error:
            raise UpgradeRefused(f"signed metadata: {error.message}", code="tampered") from error

    def _former(
        self, request: Request, signed: dict[str, Package], installed: Installed
    ) -> Package:
        kept = [p for p in self._shelf.kept() if p.version == installed.version]
        found = next((p for p in kept if self._shelf.has(p)), signed.get(request.former))
        if found is None or (found.label.name, found.version) != (AGENT, installed.version):
            raise cannot_revert(installed.version)
        return found

    def _fetch(self, request: Request, package: Package) -> None:
        if not self._shelf.has(package):
            with self._mailbox.package(request.id, package.file_name) as file:
                self._shelf.put(package, file)


def _check_fits(package: Package, form: str, installed: Installed) -> None:
    label = package.label
    if label.name != AGENT:
        raise UpgradeRefused(f"{label.name} is not {AGENT}", code="no_package")
    fits = (installed.architecture, ANY_ARCHITECTURE[form])
    if label.format != form or label.architecture not in fits:
        raise UpgradeRefused(
            f"the package is a {label.format} for {label.architecture}; this machine takes a "
            f"{form} for {installed.architecture}",
            code="wrong_architecture",
        )


def _check_version(target: Package, installed: Installed, *, downgrade: bool) -> None:
    form, version = target.label.format, target.version
    if compare(form, version, installed.version) == 0:
        raise UpgradeRefused(f"version {installed.version} is installed", code="already_running")
    refuse_older(form, version, installed.version, downgrade=downgrade)
