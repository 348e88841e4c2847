"""The files of a sandbox: found as the sandbox itself would find them, and compared over time."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a running system writes by itself, with nobody installing or removing anything.
NOISE = (
    "/run/credentials",
    "/run/dbus/*",
    "/run/lock",
    "/run/log",
    "/run/systemd",
    "/run/udev",
    "/run/user",
    "/tmp/systemd-private-*",
    "/var/tmp/systemd-private-*",
    "/var/cache/ldconfig/aux-cache",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timers",
    "/var/log/journal/????????????????????????????????/*",
    "/var/log/wtmp",
)
# What any package's coming and going leaves in the package manager's own books.
BOOKS = (
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/var/cache/apt/*",
    "/var/cache/debconf/*",
    "/var/lib/apt/extended_states",
    "/var/lib/apt/lists/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/dpkg/triggers/*",
    "/var/log/alternatives.log",
    "/var/log/apt/*",
    "/var/log/dpkg.log",
)


def inside(root: Path, path: str | Path) -> Path:
    """Where the host finds `path` of the system below `root`.

    Its absolute links mean its own root: followed naively they would lead to the host's files.
    """
    todo = list(Path(path).parts[::-1])
    done: list[str] = []
    for _ in range(1000):
        if not todo:
            return root.joinpath(*done)
        part = todo.pop()
        if part == "/":
            done = []
        elif part == "..":
            del done[-1:]
        elif root.joinpath(*done, part).is_symlink():
            todo += Path(os.readlink(root.joinpath(*done, part))).parts[::-1]
        else:
            done.append(part)
    raise OSError(f"too many links: {path}")


@dataclass(frozen=True)
class Entry:
    """What is compared of one file; times are not."""

    kind: str
    mode: str
    owner: tuple[int, int]
    content: str  # a link's target, or a file's size and digest

    def __str__(self) -> str:
        return f"{self.kind} {self.mode} {self.owner[0]}:{self.owner[1]} {self.content}".rstrip()


Snapshot = dict[str, Entry]


@dataclass(frozen=True)
class Difference:
    """What came, went and changed between two snapshots; empty is false."""

    added: dict[str, Entry]
    removed: dict[str, Entry]
    changed: dict[str, tuple[Entry, Entry]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        lines = [f"+ {path}  {entry}" for path, entry in self.added.items()]
        lines += [f"- {path}  {entry}" for path, entry in self.removed.items()]
        lines += [f"~ {path}  {old} -> {new}" for path, (old, new) in self.changed.items()]
        return "\n".join(lines) or "no difference"


def diff(before: Snapshot, after: Snapshot) -> Difference:
    """Compare two snapshots."""
    return Difference(
        added={path: after[path] for path in sorted(after.keys() - before.keys())},
        removed={path: before[path] for path in sorted(before.keys() - after.keys())},
        changed={
            path: (before[path], after[path])
            for path in sorted(before.keys() & after.keys())
            if before[path] != after[path]
        },
    )


def snapshot(root: Path, tree: Path, exclude: Sequence[str] = ()) -> Snapshot:
    """Every file of the system below `root`, a sandbox over `tree`, and below its /run.

    Patterns are fnmatch's, on whole paths; a folder that matches hides all below it. Other
    mounts (kernel views, devices, binds) are not looked into.
    """
    hidden = re.compile("|".join(fnmatch.translate(pattern) for pattern in (*NOISE, *exclude)))
    found: Snapshot = {}
    for start in (root, root / "run"):
        for path, status in _walk(start, root, hidden):
            name = str(path.relative_to(root))
            found[f"/{name}"] = _entry(path, status, tree / name)
    return found


def _walk(
    folder: Path, root: Path, hidden: re.Pattern[str], device: int = 0
) -> Iterator[tuple[Path, os.stat_result]]:
    """All below a folder on the same file system; what goes away meanwhile was never there."""
    device = device or folder.stat().st_dev
    for item in sorted(os.scandir(folder), key=lambda item: item.name):
        path = Path(item.path)
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if hidden.match(f"/{path.relative_to(root)}"):
            continue
        # Only folders tell: files of an overlay carry the numbers of the layer they are in.
        if stat.S_ISDIR(status.st_mode):
            if status.st_dev != device:
                continue
            yield from _walk(path, root, hidden, device)
        yield path, status


def _entry(path: Path, status: os.stat_result, built: Path) -> Entry:
    kind, content = "other", ""
    if stat.S_ISDIR(status.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(status.st_mode):
        kind, content = "link", os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        kind, content = "file", _content(path, status, built)
    return Entry(
        kind, f"{stat.S_IMODE(status.st_mode):04o}", (status.st_uid, status.st_gid), content
    )


def _content(path: Path, status: os.stat_result, built: Path) -> str:
    """`as built` for a file of the tree, which saves reading nearly all of them."""
    try:
        origin = built.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{status.st_size} B {_digest(path)}"
    same_size = stat.S_ISREG(origin.st_mode) and origin.st_size == status.st_size
    if same_size and (origin.st_mtime_ns == status.st_mtime_ns or _digest(built) == _digest(path)):
        return "as built"
    return f"{status.st_size} B {_digest(path)}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
