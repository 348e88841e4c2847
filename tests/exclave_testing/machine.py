"""A machine that a test puts together: its commands, files, users and names."""

from __future__ import annotations

import fnmatch
import re
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exclave_agent.doctor.host import Host
from exclave_agent.doctor.machine import (
    ABSENT,
    COMMAND_SECONDS,
    LARGEST_READ,
    RESOLVE_SECONDS,
    Ran,
    Space,
    Stat,
    User,
)

Answer = str | Ran | Callable[[Sequence[str]], str]


@dataclass
class FakeMachine:
    """doctor.machine.Machine. What is below `real` is looked at on the real disk."""

    real: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0
    files: dict[str, bytes | None] = field(default_factory=dict)
    """Path -> content; None: something that is not a file, such as a folder or a device."""
    stats: dict[str, Stat] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    """Paths that raise PermissionError when they are read."""
    commands: dict[str, Answer] = field(default_factory=dict)
    """The beginning of a command line -> its output. The longest that fits counts."""
    ran: list[Sequence[str]] = field(default_factory=list)
    """Every command asked for."""
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    modules: set[str] = field(default_factory=lambda: {"llama_cpp", "onnxruntime"})
    names: dict[str, Sequence[str] | OSError] = field(default_factory=dict)
    """Host -> addresses, or the error of looking it up; others resolve as loopback does."""
    room: Space = field(default_factory=lambda: Space(1 << 40, 1_000_000, 2_000_000))

    def run(
        self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS, most: int = LARGEST_READ
    ) -> Ran:
        self.ran.append(argv)
        line = " ".join(argv)
        fits = [begin for begin in self.commands if line.startswith(begin)]
        if not fits:
            return Ran(ABSENT, "")
        answer = self.commands[max(fits, key=len)]
        if isinstance(answer, Ran):
            return answer
        return Ran(0, (answer if isinstance(answer, str) else answer(argv))[-most:])

    def read(self, path: Path, most: int = LARGEST_READ) -> bytes | None:
        if str(path) in self.forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        if path.is_relative_to(self.real):
            return Host().read(path, most)
        content = self.files.get(str(path))
        return None if content is None else content[:most]

    def stat(self, path: Path) -> Stat | None:
        if str(path) in self.stats:
            return self.stats[str(path)]
        if path.is_relative_to(self.real):
            return Host().stat(path)
        if str(path) not in self.files:
            return None
        content = self.files[str(path)]
        kind = stat.S_IFDIR if content is None else stat.S_IFREG
        return Stat(kind | 0o600, 0, 0, len(content or b""))

    def glob(self, pattern: str) -> Sequence[Path]:
        if pattern.startswith(str(self.real)):
            return Host().glob(pattern)
        # A star does not cross a slash, as it does not in a shell.
        matches = re.compile(fnmatch.translate(pattern).replace(".*", "[^/]*")).match
        return [Path(path) for path in sorted({*self.files, *self.stats}) if matches(path)]

    def space(self, path: Path) -> Space | None:
        return self.room if self.stat(path) is not None else None

    def user(self, name: str) -> User | None:
        return self.users.get(name) or Host().user(name)

    def user_name(self, uid: int) -> str:
        known = {user.uid: user.name for user in self.users.values()}
        return known.get(uid) or Host().user_name(uid)

    def group(self, name: str) -> int | None:
        return self.groups.get(name)

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def resolve(self, host: str, port: int, *, seconds: float = RESOLVE_SECONDS) -> Sequence[str]:
        answer = self.names.get(host)
        if isinstance(answer, OSError):
            raise answer
        if answer is not None:
            return answer
        if host in ("127.0.0.1", "localhost"):
            return ["127.0.0.1"]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
