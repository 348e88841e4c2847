"""Control groups for one sandbox: a fresh group below our own in every mounted hierarchy.

Nothing outside those groups is written. A sandbox that shares even one hierarchy with its host
could freeze or limit the host through it, so a hierarchy that cannot be shut off is a refusal.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from exclave_testing.processes import wait_for

PREFIX = "exclave-box-"
# Where commands from outside run. With cgroup v2 the box's root group must hold no process.
VISITORS = "visitors"
WANTED = ("cpu", "memory", "pids")

_numbers = itertools.count()


class Unavailable(Exception):
    """This machine cannot run a sandbox; the text says why."""


@dataclass(frozen=True)
class Hierarchy:
    """One cgroup hierarchy as this process sees it."""

    name: str  # its folder below /sys/fs/cgroup; empty when it is the only one (pure v2)
    options: str  # for mount -o; empty for cgroup v2
    own: Path  # the group this process is in

    @property
    def controllers(self) -> frozenset[str]:
        """What a group below our own can control in this hierarchy."""
        if self.options:
            return frozenset(self.options.split(",")) - {"none"}
        return frozenset((self.own / "cgroup.subtree_control").read_text().split())


def hierarchies(proc: Path = Path("/proc/self")) -> list[Hierarchy]:
    """Every hierarchy of this machine. Raises: Unavailable when one is out of reach."""
    mountinfo = (proc / "mountinfo").read_text()
    lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    found = []
    for number, controllers, path in lines:
        own = _where(mountinfo, controllers, path)
        if number == "0":
            found.append(Hierarchy("unified" if len(lines) > 1 else "", "", own))
        else:
            options = controllers.replace("name=", "none,name=")
            found.append(Hierarchy(controllers.removeprefix("name="), options, own))
    names = {hierarchy.name for hierarchy in found}
    if not names & {"", "unified"}:
        raise Unavailable("this kernel has no cgroup v2, not even beside v1")
    if "unified" in names and "systemd" not in names:
        raise Unavailable("cgroup v1 without the hierarchy name=systemd, which systemd insists on")
    return found


def _where(mountinfo: str, controllers: str, path: str) -> Path:
    """The folder of group `path` in the hierarchy with these controllers (empty: v2)."""
    wanted = set(controllers.split(",")) if controllers else set()
    hidden = ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        _, _, _, root, mountpoint, *_ = left.split(" ")
        if kind != ("cgroup" if wanted else "cgroup2") or not wanted <= set(options.split(",")):
            continue
        if Path(path).is_relative_to(root):
            return Path(mountpoint, Path(path).relative_to(root))
        hidden = f"our own control group {path} is outside what {mountpoint} shows"
    called = f"cgroup hierarchy {controllers}" if controllers else "cgroup v2 hierarchy"
    raise Unavailable(hidden or f"the {called} is not mounted")


class Groups:
    """The groups of one sandbox: made, entered, and gone again."""

    def __init__(self, name: str, found: list[Hierarchy]) -> None:
        # The owner's process id is part of the name, so that leavings can be told from the living.
        self.name = f"{PREFIX}{os.getpid()}-{next(_numbers)}-{name}"
        self.hierarchies = found
        self._found = found
        self._scope: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Create them; also sweeps what processes that are gone have left behind."""
        if len(self._found) == 1 and not self._found[0].options:
            self.hierarchies = [self._with_controllers(self._found[0])]
        for hierarchy in self.hierarchies:
            _sweep(hierarchy.own)
            for group in (hierarchy.own / self.name, hierarchy.own / self.name / VISITORS):
                try:
                    group.mkdir()
                except OSError as error:
                    raise Unavailable(f"cannot make control groups: {error}") from error
                _inherit_cpus(group)

    @property
    def roots(self) -> list[Path]:
        """The box's root group in each hierarchy, as the host sees it."""
        return [hierarchy.own / self.name for hierarchy in self.hierarchies]

    @property
    def visitors(self) -> list[Path]:
        """Where commands run that enter from outside."""
        return [root / VISITORS for root in self.roots]

    @property
    def controllers(self) -> frozenset[str]:
        """What units inside can be limited by, such as `memory`."""
        return frozenset().union(*(h.controllers for h in self.hierarchies))

    def remove(self) -> None:
        """Remove them all; the caller has ended the processes."""
        for root in self.roots:
            wait_for(f"{root} to be removable", functools.partial(_removed, root), 10)
        if self._scope is not None:
            self._scope.kill()
            self._scope.wait()
            self._scope = None
            self.hierarchies = self._found

    def _with_controllers(self, hierarchy: Hierarchy) -> Hierarchy:
        """Cgroup v2 hands controllers only to groups whose parent holds no processes.

        At the root, or where we are alone, we may hand them on ourselves. Else the host's systemd
        is asked for a delegated scope; without one the box boots with no limits to test.
        """
        if _hand_on(hierarchy.own) or not Path("/run/systemd/system").is_dir():
            return hierarchy
        if shutil.which("systemd-run") is None:
            return hierarchy
        words = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={self.name}"]
        words += ["--property=Delegate=yes", "setpriv", "--pdeathsig=KILL", "sleep", "infinity"]
        self._scope = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        pid = self._scope.pid
        group = Path(f"/proc/{pid}/cgroup")
        wait_for(f"the scope {self.name}", lambda: f"/{self.name}.scope" in group.read_text())
        path = group.read_text().strip().removeprefix("0::")
        scope = _where(Path("/proc/self/mountinfo").read_text(), "", path)
        holder = scope / "holder"
        holder.mkdir()
        (holder / "cgroup.procs").write_text(str(pid))
        _hand_on(scope)
        return Hierarchy(hierarchy.name, hierarchy.options, scope)


def _hand_on(group: Path) -> bool:
    """Let groups below this v2 group have the controllers we test with; False if refused."""
    have = set((group / "cgroup.subtree_control").read_text().split())
    possible = set((group / "cgroup.controllers").read_text().split()) & set(WANTED)
    words = " ".join(f"+{name}" for name in sorted(possible - have))
    if not words:
        return bool(have)
    try:
        (group / "cgroup.subtree_control").write_text(words)
    except OSError:
        return False
    return True


def _inherit_cpus(group: Path) -> None:
    """A v1 cpuset takes no process before it is told its processors."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = group / name
        if file.exists() and (group / "tasks").exists() and not file.read_text().strip():
            file.write_text((group.parent / name).read_text())


def _removed(root: Path) -> bool:
    """Remove a group and all below it, leaves first; False while one is still busy."""
    if not root.exists():
        return True
    for folder, below, _ in os.walk(root, topdown=False):
        for name in [os.path.join(folder, child) for child in below] + [folder]:
            try:
                os.rmdir(name)
            except FileNotFoundError:
                continue
            except OSError:
                return False
    return True


def _sweep(own: Path) -> None:
    """Remove groups whose maker is gone (killed before it could clean up)."""
    for group in own.glob(f"{PREFIX}*"):
        maker = re.match(r"\d+", group.name.removeprefix(PREFIX))
        if maker and not Path("/proc", maker[0]).exists():
            _removed(group)
