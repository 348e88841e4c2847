"""dpkg as a `ports.PackageManager`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave_agent.upgrade import locks
from exclave_agent.upgrade.children import ChildFailed, ask, work
from exclave_agent.upgrade.ports import Installed, InstallFailed, Pace
from exclave_protocol.packages import AGENT

ADMIN: Final = Path("/var/lib/dpkg")
_WHOLE: Final = ("installed", "triggers-pending", "triggers-awaited")
_ABSENT: Final = ("not-installed", "config-files")
_FORMAT: Final = "-f=${db:Status-Status}\t${Version}\t${Architecture}\n"
_QUIET: Final = {
    "DEBIAN_FRONTEND": "noninteractive",
    # We hold the frontend's lock for dpkg, as apt does.
    "DPKG_FRONTEND_LOCKED": "1",
}


class Dpkg:
    """Debian's package manager."""

    form = "deb"

    def __init__(
        self, log: Path, pace: Pace, *, admin: Path = ADMIN, options: tuple[str, ...] = ()
    ) -> None:
        """Its output is added to `log`; `admin` and `options` (--root ...) are for tests."""
        self._log = log
        self._pace = pace
        self._admin = admin
        self._options = options

    def installed(self, name: str) -> Installed | None:
        words = ["dpkg-query", f"--admindir={self._admin}", "-W", _FORMAT, name]
        try:
            line = ask(words)
        except ChildFailed as error:
            if "no packages found" in str(error):
                return None
            raise InstallFailed(str(error)) from error
        status, version, architecture = line.splitlines()[0].split("\t")
        if status in _ABSENT:
            return None
        return Installed(version, architecture, status in _WHOLE)

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        deadline = self._pace.monotonic() + patience
        held = locks.acquire(self._admin / "lock-frontend", deadline, self._pace)
        try:
            # A dpkg without a frontend, or one that outlived ours, holds only this one. dpkg
            # itself needs it, so it is let go again.
            os.close(locks.acquire(self._admin / "lock", deadline, self._pace))
            yield
        finally:
            os.close(held)

    def install(self, file: Path) -> None:
        # confold: what the operator wrote in a configuration file stays. Going back to an older
        # version is dpkg's default (--force-downgrade).
        self._work("--force-confold", "--install", str(file))

    def repair(self) -> None:
        # Not --pending: what others have left half done is theirs, and may take for ever.
        found = self.installed(AGENT)
        if found is not None and not found.whole:
            self._work("--force-confold", "--configure", AGENT)

    def _work(self, *words: str) -> None:
        try:
            work(["dpkg", *self._options, *words], self._log, _QUIET)
        except ChildFailed as error:
            raise InstallFailed(str(error)) from error
