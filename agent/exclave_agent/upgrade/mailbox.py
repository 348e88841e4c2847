"""The agent's folder as root meets it: everything in it may change at any moment, and may lie.

Root opens files relative to a folder it holds open, never through a link, only regular ones of
the agent's user, and reads each once: what is verified is what was read, wherever the name leads
a moment later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.letters import (
    FOLDER,
    MAX_LETTER,
    REQUEST,
    RESULT,
    Request,
    Result,
    staging,
)

_METADATA: Final = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.(root|snapshot|targets)\.json")
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Mailbox:
    """`<home>/upgrade` of one agent."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @property
    def owner(self) -> int:
        """User id of the agent. Raises: OSError."""
        return self._home.lstat().st_uid

    def request(self) -> Request | None:
        """What is asked for; None: nothing. Raises: UpgradeRefused ("request_invalid")."""
        try:
            with self._folder() as folder, self._file(folder, REQUEST) as file:
                return Request.decode(_read(file, MAX_LETTER))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(REQUEST, error) from error

    def metadata(self, request_id: str, name: str, limit: int) -> bytes | None:
        """A staged TUF metadata file of at most `limit` bytes; None: not staged.

        Raises: UpgradeRefused ("fetch_failed": staged wrongly).
        """
        if not _METADATA.fullmatch(name):
            return None
        try:
            with self._staged(request_id, "metadata", name) as file:
                data = _read(file, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(name, error) from error
        return data

    @contextlib.contextmanager
    def package(self, request_id: str, name: str) -> Iterator[int]:
        """A staged package, open for reading. Raises: UpgradeRefused ("fetch_failed")."""
        try:
            with self._staged(request_id, "packages", name) as file:
                yield file
        except OSError as error:
            raise _unreadable(name, error) from error

    def answer(self, result: Result) -> None:
        """Leave the result where the agent looks for it, as the agent's own file.

        Raises: OSError, for whatever the agent's user has put in the way.
        """
        data = result.encode()
        temporary = f".{RESULT}.root"
        with self._folder() as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            file = os.open(temporary, _NEW, 0o600, dir_fd=folder)
            try:
                home = self._home.lstat()
                os.fchown(file, home.st_uid, home.st_gid)
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(temporary, RESULT, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def clear(self, request_id: str) -> None:
        """Take the request away, once its result is there; one that came since stays.

        One that cannot be read goes as well: it would start us again and again.
        Raises: OSError.
        """
        try:
            newer = self.request()
        except UpgradeRefused:
            newer = None
        if newer is not None and newer.id != request_id:
            return
        with contextlib.suppress(FileNotFoundError), self._folder() as folder:
            os.unlink(REQUEST, dir_fd=folder)
            os.fsync(folder)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        # The folder above the home is root's: nobody can put a link in the home's place.
        home = os.open(self._home, _DIRECTORY)
        try:
            folder = os.open(FOLDER, _DIRECTORY, dir_fd=home)
        finally:
            os.close(home)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _staged(self, request_id: str, kind: str, name: str) -> Iterator[int]:
        with self._folder() as folder:
            outer = os.open(staging(request_id), _DIRECTORY, dir_fd=folder)
            try:
                inner = os.open(kind, _DIRECTORY, dir_fd=outer)
            finally:
                os.close(outer)
            try:
                with self._file(inner, name) as file:
                    yield file
            finally:
                os.close(inner)

    @contextlib.contextmanager
    def _file(self, folder: int, name: str) -> Iterator[int]:
        file = os.open(name, _FILE, dir_fd=folder)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != self.owner:
                raise OSError(errno.EPERM, "not a file of the agent's user")
            yield file
        finally:
            os.close(file)


def _read(file: int, limit: int) -> bytes:
    pieces, size = [], 0
    while size <= limit and (piece := os.read(file, limit + 1 - size)):
        pieces.append(piece)
        size += len(piece)
    if size > limit:
        raise OSError(errno.EFBIG, f"longer than {limit} bytes")
    return b"".join(pieces)


def _unreadable(name: str, error: OSError) -> UpgradeRefused:
    code = "request_invalid" if name == REQUEST else "fetch_failed"
    return UpgradeRefused(
        f"{name} as the agent staged it cannot be used ({error.strerror or 'unreadable'})",
        code=code,
    )
