"""What doctor asks of the machine it runs on: commands, files, users, names. `host` is the real
one; the fake is `exclave_testing.machine`."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

COMMAND_SECONDS: Final = 5.0
RESOLVE_SECONDS: Final = 5.0
LARGEST_READ: Final = 4 << 20
"""Bytes of one file, or of one command's output, unless a caller says otherwise."""

ABSENT: Final = 127
"""Exit code of a command that is not installed, or may not be run."""
TIMED_OUT: Final = 124
"""Exit code of a command that was stopped because its time was over."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    """Its stdout; stderr is not kept."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What the file system says of a path."""

    mode: int
    """With the file type, as st_mode."""
    uid: int
    gid: int
    size: int

    @property
    def permissions(self) -> int:
        """The lowest nine bits and the three above them."""
        return stat.S_IMODE(self.mode)

    @property
    def is_folder(self) -> bool:
        """A directory, links followed."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class Space:
    """Room in a file system, for a user who is not root."""

    free: int
    """Bytes."""
    inodes_free: int
    inodes: int
    """0: this file system does not count them."""


@dataclass(frozen=True, slots=True)
class User:
    """An account, with every group it is in."""

    name: str
    uid: int
    groups: frozenset[int]


class Machine(Protocol):
    """Every method answers within its time, and none raises for what the machine lacks, unless
    it says so."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of this command, not of the service."""
        ...

    @property
    def uid(self) -> int:
        """Whose rights this command has now."""
        ...

    def run(
        self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS, most: int = LARGEST_READ
    ) -> Ran:
        """Run a command to its end. A missing one ends with ABSENT, a slow one with TIMED_OUT;
        what is longer than `most` bytes is cut at its beginning: the newest lines count."""
        ...

    def read(self, path: Path, most: int = LARGEST_READ) -> bytes | None:
        """The first `most` bytes of a file; None when it is not there or is not a file.

        Raises: PermissionError.
        """
        ...

    def stat(self, path: Path) -> Stat | None:
        """None when nothing is there. Raises: PermissionError."""
        ...

    def glob(self, pattern: str) -> Sequence[Path]:
        """Absolute paths that match, in order."""
        ...

    def space(self, path: Path) -> Space | None:
        """Of the file system that holds an existing path."""
        ...

    def user(self, name: str) -> User | None:
        """None when there is no such account."""
        ...

    def user_name(self, uid: int) -> str:
        """The account's name; the number where it has none."""
        ...

    def group(self, name: str) -> int | None:
        """A group's number."""
        ...

    def has_module(self, name: str) -> bool:
        """Whether this Python, which is the workers' too, finds a module. It is not imported."""
        ...

    def resolve(self, host: str, port: int, *, seconds: float = RESOLVE_SECONDS) -> Sequence[str]:
        """Addresses of a name. Raises: OSError, TimeoutError."""
        ...
