"""rpm as a `ports.PackageManager`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave_agent.upgrade import locks
from exclave_agent.upgrade.children import ChildFailed, ask, work
from exclave_agent.upgrade.ports import Installed, InstallFailed, ManagerBusy, Pace

_FORMAT: Final = "%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\n"
_LOCK: Final = "%{?_rpmlock_path}%{!?_rpmlock_path:%{_dbpath}/.rpm.lock}"


class Rpm:
    """The package manager of Fedora, RHEL, SUSE."""

    form = "rpm"

    def __init__(self, log: Path, pace: Pace, *, options: tuple[str, ...] = ()) -> None:
        """Its output is added to `log`; `options` (--root, --dbpath ...) are for tests."""
        self._log = log
        self._pace = pace
        self._options = options

    def installed(self, name: str) -> Installed | None:
        try:
            lines = ask(["rpm", *self._options, "-q", "--qf", _FORMAT, name]).splitlines()
        except ChildFailed as error:
            if self._is_absent(name):
                return None
            raise InstallFailed(str(error)) from error
        version, architecture = lines[-1].split("\t")
        # An interrupted upgrade leaves both versions in the database.
        return Installed(version, architecture, whole=len(lines) == 1)

    def _is_absent(self, name: str) -> bool:
        """`rpm -q` says "not installed" by its exit status and on stdout alone."""
        try:
            everything = ask(["rpm", *self._options, "-qa", "--qf", "%{NAME}\n", name])
        except ChildFailed:
            return False
        return name not in everything.split()

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        deadline = self._pace.monotonic() + patience
        try:
            path = Path(ask(["rpm", *self._options, "--eval", _LOCK]).strip())
        except ChildFailed as error:
            raise ManagerBusy(str(error)) from error
        # Only waited for: rpm takes it itself, and would wait for ever for whoever has it.
        os.close(locks.acquire(path, deadline, self._pace))
        yield

    def install(self, file: Path) -> None:
        # nosignature: who may speak for this package was decided by the tenant's own signatures
        # over its digest. replacepkgs: the same version again, where it is broken.
        self._work("-U", "--oldpackage", "--replacepkgs", "--nosignature", str(file))

    def repair(self) -> None:
        """Nothing: rpm is repaired by installing again, which `install` does over anything."""

    def _work(self, *words: str) -> None:
        try:
            work(["rpm", *self._options, *words], self._log)
        except ChildFailed as error:
            raise InstallFailed(str(error)) from error
