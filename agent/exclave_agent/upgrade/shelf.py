"""Verified packages that root keeps: the one that runs and the one before it, to go back to.

packages/<sha256>.<format>   copied and hashed in one go, never changed
kept.json                    which they are; the agent reads it to know what it need not fetch
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from exclave_agent.disk import sync_folder
from exclave_agent.releases.files import write_durably
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_protocol.errors import PackageError
from exclave_protocol.package_files import read_label
from exclave_protocol.packages import Package

SCHEMA: Final = "exclave.upgrade-kept/v1"
KEPT: Final = "kept.json"
FOLDER: Final = "packages"
_BLOCK: Final = 1 << 20


def read_kept(folder: Path) -> list[Package]:
    """The packages that root says it keeps in its folder; none where it says nothing readable."""
    try:
        value: dict[str, Any] = json.loads((folder / KEPT).read_bytes())
        if value["schema"] != SCHEMA:
            return []
        return [Package.from_json(each) for each in value["packages"]]
    except (OSError, ValueError, KeyError, TypeError, PackageError):
        return []


class Shelf:
    """Root's packages."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the root side's."""
        self._folder = folder
        self._packages = folder / FOLDER

    def path(self, package: Package) -> Path:
        """Where the verified file lies."""
        return self._packages / package.file_name

    def kept(self) -> list[Package]:
        """Those kept from upgrades before, unverified since."""
        return read_kept(self._folder)

    def has(self, package: Package) -> bool:
        """Whether the file is there and still what it was; one that is not is removed."""
        path = self.path(package)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return False
        if digest != package.sha256:
            path.unlink(missing_ok=True)
            return False
        return True

    def put(self, package: Package, source: int) -> None:
        """Copy a package in from a descriptor, and check it: length, digest, its own label.

        The bytes checked are the bytes kept. Raises: UpgradeRefused (tampered, disk_full).
        """
        self._packages.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._packages / f".{package.file_name}.part"
        try:
            with part.open("wb") as file:
                _copy(source, file.fileno(), package)
                os.fsync(file.fileno())
            with part.open("rb") as file:
                label = read_label(file)
            if label != package.label:
                raise _tampered(package, "says another name, version or architecture of itself")
            part.replace(self.path(package))
            sync_folder(self._packages)
        except PackageError as error:
            raise _tampered(package, error.message) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise UpgradeRefused(
                f"{package.path} could not be kept in {self._packages} ({error.strerror})",
                code="disk_full" if full else "fetch_failed",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def settle(self, keep: Iterable[Package]) -> None:
        """Keep these and no others. Raises: OSError."""
        packages = list(dict.fromkeys(keep))
        value = {"schema": SCHEMA, "packages": [package.to_json() for package in packages]}
        write_durably(self._folder / KEPT, (json.dumps(value, sort_keys=True) + "\n").encode())
        names = {package.file_name for package in packages}
        if self._packages.is_dir():
            for path in self._packages.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)


def _copy(source: int, to: int, package: Package) -> None:
    hasher, size = hashlib.sha256(), 0
    while piece := os.read(source, _BLOCK):
        size += len(piece)
        if size > package.length:
            break
        hasher.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(to, view) :]
    if (size, hasher.hexdigest()) != (package.length, package.sha256):
        raise _tampered(package, "is not the signed file")


def _tampered(package: Package, why: str) -> UpgradeRefused:
    return UpgradeRefused(f"{package.path} as the agent staged it {why}", code="tampered")
