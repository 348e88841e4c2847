"""The lock files of package managers: POSIX record locks, as they take them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from exclave_agent.upgrade.ports import ManagerBusy, Pace

POLL: Final = 1.0
"""Seconds between two attempts."""


def acquire(path: Path, deadline: float, pace: Pace) -> int:
    """The descriptor that holds the lock; closing it (any of the file's) lets go.

    Raises: ManagerBusy at the deadline (of `pace.monotonic`), Stopped.
    """
    while True:
        file = _try(path)
        if file is not None:
            return file
        if pace.monotonic() >= deadline:
            raise ManagerBusy(
                f"another process uses the package manager ({path} is locked): try again when it "
                "is done"
            )
        pace.sleep(POLL)


def _try(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise ManagerBusy(f"{path} cannot be locked ({error.strerror})") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise ManagerBusy(f"{path} cannot be locked ({error.strerror})") from error
    return file
