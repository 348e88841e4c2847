"""Refusals that both sides make: the agent to spare the work, root because it must."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_protocol.packages import compare

ROOM: Final = 4
"""Disk that must be free, in sizes of the package: it is kept, unpacked beside the present one,
and compressed to about a half."""


def free_space(path: Path) -> int:
    """Bytes free where `path` lies, or will."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def refuse_full(disk: Path, free: int, length: int) -> None:
    """Raises: UpgradeRefused ("disk_full") unless a package of `length` bytes can be installed."""
    if free < ROOM * length:
        raise UpgradeRefused(
            f"{disk} has {free} bytes free, and the upgrade needs {ROOM * length}: make room there",
            code="disk_full",
        )


def refuse_older(form: str, target: str, present: str, *, downgrade: bool) -> None:
    """Raises: UpgradeRefused ("downgrade") unless an older version is what was asked for."""
    if compare(form, target, present) < 0 and not downgrade:
        raise UpgradeRefused(
            f"{target} is older than the present {present}: say --allow-downgrade if that is meant",
            code="downgrade",
        )


def cannot_revert(version: str) -> UpgradeRefused:
    """Without the former package there is no way back, so there is no way forward."""
    return UpgradeRefused(
        f"cannot revert: the package of the present version {version} is neither signed nor kept "
        "here; have it published (`exclave release package WORKSPACE --add FILE`), or upgrade by "
        "hand",
        code="cannot_revert",
    )
