"""What installing asks of the machine: `SystemHost` is real, `exclave_testing.host` a fake."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

LARGEST_READ: Final = 1 << 20
"""Bytes; what is read here is much smaller."""
COMMAND_SECONDS: Final = 180.0
"""The longest is a start that waits until the agent is ready."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def last_line(self) -> str:
        """What it said last, for messages."""
        lines = self.err.strip().splitlines()
        return lines[-1].strip() if lines else f"exit status {self.code}"


class Host(Protocol):
    """The machine, as root sees and changes it."""

    @property
    def is_root(self) -> bool:
        """Whether this process may change it."""
        ...

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Ran:
        """Run a command to its end; one that is not there ends with 127."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether anything is at the path; links are followed."""
        ...

    def read(self, path: Path) -> bytes | None:
        """A small file's content; None when it is not there."""
        ...

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Replace a file of root's atomically, durable when this returns; makes its folder."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, and its folder when nothing else is in it."""
        ...

    def owner(self, path: Path) -> str | None:
        """Name of the user that owns the path; None when nothing is there."""
        ...

    def make_home(self, path: Path, user: str) -> None:
        """A folder for that user alone."""
        ...

    def has_user(self, name: str) -> bool:
        """Whether there is such an account."""
        ...

    def glob(self, folder: Path, pattern: str) -> Sequence[Path]:
        """Paths that match below a folder."""
        ...


class SystemHost:
    """The machine that this process runs on."""

    @property
    def is_root(self) -> bool:
        """See `Host`."""
        return os.geteuid() == 0

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Ran:
        """See `Host`."""
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
                # What it says is read: in the language that we know.
                env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            )
        except FileNotFoundError:
            return Ran(127, b"", f"{argv[0]} is not installed")
        except subprocess.TimeoutExpired:
            return Ran(124, b"", f"{argv[0]} did not end within {COMMAND_SECONDS:.0f} s")
        return Ran(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def exists(self, path: Path) -> bool:
        """See `Host`."""
        return path.exists()

    def read(self, path: Path) -> bytes | None:
        """See `Host`."""
        # Some of these files the agent's user may have put there: a link, a pipe or an endless
        # device is none of ours.
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            return file.read(LARGEST_READ)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """See `Host`."""
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The process' umask is the agent's; these folders are for everybody to read.
        path.parent.chmod(0o755)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        # The name as well: what was sealed with a key that a power cut then takes is lost.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        """See `Host`."""
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def owner(self, path: Path) -> str | None:
        """See `Host`."""
        try:
            uid = path.stat().st_uid
        except FileNotFoundError:
            return None
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def make_home(self, path: Path, user: str) -> None:
        """See `Host`."""
        path.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(path, user, user)

    def has_user(self, name: str) -> bool:
        """See `Host`."""
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    def glob(self, folder: Path, pattern: str) -> Sequence[Path]:
        """See `Host`."""
        return sorted(folder.glob(pattern))
