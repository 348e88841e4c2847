"""One agent per home: a lock that the kernel lets go of when the process dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from exclave_agent.errors import StorageError


class HomeLock:
    """An exclusive `flock` on `<home>/agent.lock`, held until `release`."""

    def __init__(self, home: Path) -> None:
        """Raises: StorageError "home_locked" naming the holder's pid."""
        path = home / "agent.lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open the home's lock file: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"another agent uses this home (pid {holder}); stop it first",
                    code="home_locked",
                ) from error
            raise StorageError(f"cannot lock the home: {error.strerror}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. Idempotent. The file stays: deleting it would race with the next holder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
