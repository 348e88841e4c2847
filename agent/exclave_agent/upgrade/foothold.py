"""A copy of the installed program beside it, made of hard links: instant, and without space.

The package manager replaces files by renaming new ones over them, so the links keep the old
ones. The copy lies on the same disk as the program, and a boot after a power cut finds it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = Path("/opt/exclave/agent")
COPY: Final = Path("/opt/exclave/.agent-upgrading")
"""exclave-upgrade.service looks for it under this name: never change it alone."""
PYTHON: Final = "runtime/bin/python3"
WORDS: Final = ("-I", "-B", "-m", "exclave_agent.upgrade.root")
"""Isolated, and without leaving compiled files where the package manager does not know them."""


class LinkedCopy:
    """A `ports.Foothold`."""

    def __init__(
        self, program: Path = PROGRAM, copy: Path = COPY, running: Path | None = None
    ) -> None:
        """`running` is the interpreter of this process."""
        self._program = program
        self._copy = copy
        self._running = running or Path(sys.executable)

    @property
    def stands(self) -> bool:
        return self._copy.is_dir()

    @property
    def inside(self) -> bool:
        return self._running.is_relative_to(self._copy)

    def take(self) -> None:
        """MUST be durable before it has its name: a boot may find nothing else that is whole."""
        self.remove()
        new = self._other
        shutil.copytree(self._program, new, symlinks=True, copy_function=_link)
        _flush(new)
        new.rename(self._copy)
        _flush(self._copy)

    def enter(self) -> None:
        self._become(self._copy)

    def leave(self) -> None:
        inside = self.inside
        self.remove()
        if inside:
            self._become(self._program)

    def remove(self) -> None:
        """MUST take its name away first: half of a copy is worse than none."""
        self._clear_other()
        if self.stands:
            self._copy.rename(self._other)
            self._clear_other()

    @property
    def _other(self) -> Path:
        """The name of a copy that is not whole: not yet, or no longer."""
        return self._copy.with_name(f"{self._copy.name}.new")

    def _become(self, tree: Path) -> None:
        python = str(tree / PYTHON)
        os.execv(python, [python, *WORDS])  # noqa: S606 - no shell, and a path of our own

    def _clear_other(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._other)


def _flush(folder: Path) -> None:
    """Make all of the folder's file system durable, and no other: os.sync() would wait for the
    dead server of a network file system, too. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(fd)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links, or a limit of them
        shutil.copy2(source, target, follow_symlinks=False)
    return target
