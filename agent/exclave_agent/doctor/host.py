"""The machine itself, behind doctor's port."""

from __future__ import annotations

import contextlib
import glob
import grp
import importlib.util
import os
import pwd
import queue
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from exclave_agent.doctor.machine import (
    ABSENT,
    COMMAND_SECONDS,
    LARGEST_READ,
    RESOLVE_SECONDS,
    TIMED_OUT,
    Ran,
    Space,
    Stat,
    User,
)


class Host:
    """See `machine.Machine`."""

    def __init__(self) -> None:
        self._read: dict[Path, bytes | None] = {}
        self._ran: dict[tuple[str, ...], Ran] = {}

    def remember(
        self, reads: Iterable[Path] = (), runs: Iterable[tuple[Sequence[str], float]] = ()
    ) -> None:
        """Look now, while this process has the rights, at what is asked for later without them;
        `runs` are commands with their seconds."""
        for path in reads:
            with contextlib.suppress(PermissionError):
                self._read[path] = self.read(path)
        for argv, seconds in runs:
            self._ran[tuple(argv)] = self.run(argv, seconds=seconds)

    @property
    def environ(self) -> Mapping[str, str]:
        return os.environ

    @property
    def uid(self) -> int:
        return os.geteuid()

    def run(
        self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS, most: int = LARGEST_READ
    ) -> Ran:
        if tuple(argv) in self._ran:
            return self._ran[tuple(argv)]
        # Output is parsed: it must not hang on the caller's language, colours or pager.
        env = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
            )
        except OSError:
            return Ran(ABSENT, "")
        with process:
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                # The whole session: a child that holds the pipe would keep us waiting.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return Ran(TIMED_OUT, "")
        return Ran(process.returncode, out[-most:].decode("utf-8", "replace"))

    def read(self, path: Path, most: int = LARGEST_READ) -> bytes | None:
        if path in self._read:
            return self._read[path]
        try:
            # A pipe or a device, where a read would wait, is not opened.
            if not stat.S_ISREG(path.stat().st_mode):
                return None
            with path.open("rb") as file:
                return file.read(most)
        except PermissionError:
            raise
        except OSError:
            return None

    def stat(self, path: Path) -> Stat | None:
        try:
            found = path.stat()
        except PermissionError:
            raise
        except OSError:
            return None
        return Stat(found.st_mode, found.st_uid, found.st_gid, found.st_size)

    def glob(self, pattern: str) -> Sequence[Path]:
        return [Path(path) for path in sorted(glob.glob(pattern))]

    def space(self, path: Path) -> Space | None:
        try:
            found = os.statvfs(path)
        except OSError:
            return None
        return Space(found.f_bavail * found.f_frsize, found.f_favail, found.f_files)

    def user(self, name: str) -> User | None:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        groups = frozenset(os.getgrouplist(name, entry.pw_gid))
        return User(name, entry.pw_uid, groups)

    def user_name(self, uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def group(self, name: str) -> int | None:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def has_module(self, name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    def resolve(self, host: str, port: int, *, seconds: float = RESOLVE_SECONDS) -> Sequence[str]:
        answer: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
            except OSError as error:
                answer.put(error)

        # A resolver has no timeout of its own; one that never answers must not hold up the exit.
        threading.Thread(target=ask, name="doctor-resolver", daemon=True).start()
        try:
            result = answer.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer within {seconds:.0f} s") from None
        if isinstance(result, OSError):
            raise result
        return result
