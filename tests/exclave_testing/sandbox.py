"""Boot a real systemd in about a second, without nspawn, a container manager or a virtual machine.

A sandbox is a Debian tree under a throw-away overlay, in its own namespaces and control groups,
with systemd as its first process. It has no network but loopback, its own /dev, and a read-only
/proc/sys: the host's devices, settings and services are out of its way. That keeps tests tidy; it
does not hold back an attacker, for root inside is root. When the test process ends, however it
ends, the kernel kills the first process, and with it everything inside.

What differs from a machine: no udev and no kernel modules; on hosts with cgroup v1, systemd
learns of no OOM kill (the unit fails with `signal`) and MemoryHigh does nothing; files written
below an overlay in memory count as memory of the unit that wrote them (`on_disk=True` if it
matters).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import psutil

from exclave_testing import sandbox_files
from exclave_testing.processes import CommandFailed, wait_for
from exclave_testing.sandbox_cgroups import Groups, Unavailable, hierarchies
from exclave_testing.sandbox_files import BOOKS, Difference, Snapshot, diff
from exclave_testing.sandbox_tree import debian_tree, ensure_tools

__all__ = [
    "BOOKS",
    "Boot",
    "Difference",
    "Sandbox",
    "Snapshot",
    "Unavailable",
    "debian_tree",
    "diff",
    "ensure_tools",
    "why_not",
]

STAGE = Path(__file__).with_name("sandbox_boot.sh")
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "dumb",
    "LANG": "C.UTF-8",
}
# sched.h; Python has os.setns only from 3.12.
CLONE_NEWNET = 0x40000000
# systemd's "power off now" (systemd(1), SIGRTMIN+4).
POWER_OFF = signal.SIGRTMIN + 4


@functools.cache
def why_not() -> str | None:
    """Why no sandbox can run here, in words; None when it can. Installs tools (ensure_tools)."""
    if os.geteuid() != 0:
        return "needs root: namespaces, mounts and control groups"
    try:
        ensure_tools()
        hierarchies()
        with tempfile.TemporaryDirectory() as scratch:
            _probe(Path(scratch))
    except Unavailable as reason:
        return str(reason)
    return None


def _probe(scratch: Path) -> None:
    """Try what a boot will do. Raises: Unavailable."""
    groups = Groups("probe", hierarchies())
    script = (
        'cd "$1" && mount -t tmpfs tmpfs . && mkdir low up work root && mknod up/null c 1 3 && '
        "mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay root && "
        "mount -t proc proc root && mount -t sysfs -o ro sysfs low"
    )
    inner = ["unshare", *NAMESPACES, "--cgroup", "--fork", "sh", "-c", script, "sh", str(scratch)]
    try:
        groups.make()
        done = subprocess.run(
            ["sh", str(STAGE), "join", *map(str, groups.roots), "--", *inner],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    finally:
        groups.remove()
    if done.returncode != 0:
        raise Unavailable(f"this kernel or container forbids what a sandbox needs: {done.stderr}")


class Sandbox:
    """A booted system. Enter it as a context manager, or `boot()` and later `close()`."""

    def __init__(
        self,
        tree: Path,
        name: str,
        folder: Path,
        *,
        binds: Mapping[Path, str] | None = None,
        on_disk: bool = False,
        size: str = "2g",
        boot_seconds: float = 30,
    ) -> None:
        """`folder` holds the log and, with `on_disk`, all changes; else they live in memory.

        `binds` shows files and folders of the host read-only. `size` limits changes in memory.
        """
        if re.search(r"[:,\\]", f"{tree}{folder}"):
            raise ValueError("overlay options cannot carry `:`, `,` or backslashes in paths")
        self.tree = tree
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.boot_took = 0.0
        self._binds = dict(binds or {})
        self._on_disk = on_disk
        self._size = size
        self._boot_seconds = boot_seconds
        self._groups = Groups(name, hierarchies())
        self._process: subprocess.Popen[bytes] | None = None
        self._init: psutil.Process | None = None

    # --- its life --------------------------------------------------------------------------

    def __enter__(self) -> Sandbox:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def boot(self) -> None:
        """Start it and wait until systemd says that it is up. A second boot needs `on_disk`."""
        assert self._process is None, "already running"
        started = time.monotonic()
        try:
            self._groups.make()
            self._process = self._start()
            self._init = wait_for("the first process", self._find_init, self._boot_seconds)
            self._wait_until_up()
        except BaseException:
            self.close()
            raise
        self.boot_took = time.monotonic() - started

    def shut_down(self, seconds: float = 20) -> None:
        """Power off as an operator would: units are stopped in order."""
        assert self._process is not None and self._init is not None, "not running"
        self._init.send_signal(POWER_OFF)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            journal = self.journal()
            self.close()
            raise AssertionError(f"did not shut down in {seconds} s\n{journal}") from None
        self.close()

    def reboot(self) -> None:
        """Shut down and boot again over the same files: what is enabled must come up."""
        assert self._on_disk, "changes in memory do not survive a reboot: on_disk=True"
        self.shut_down()
        self.boot()

    def close(self) -> None:
        """End it at once, as a power cut would; fine to call at any time."""
        if self._process is not None:
            # With the first process all others of its namespace die. Before there is one, its
            # parent's end brings the same about (unshare --kill-child).
            with contextlib.suppress(psutil.NoSuchProcess):
                (self._init or self._process).kill()
            self._process.wait(20)
        self._process = self._init = None
        self._groups.remove()

    def _start(self) -> subprocess.Popen[bytes]:
        changes = self.folder / f"{self.name}-changes"
        changes.mkdir(exist_ok=True)
        upper = str(changes) if self._on_disk else f"tmpfs:{self._size}:{changes}"
        options = []
        for hierarchy in self._groups.hierarchies:
            options += ["--cgroup", hierarchy.name, hierarchy.options]
        for host, inside in self._binds.items():
            options += ["--bind", str(host.resolve()), inside]
        for group in self._groups.roots:
            options += ["--group", str(group)]
        # The root of a cgroup namespace is where its maker is; then it must leave that group, for
        # systemd wants the root group to itself.
        command = [*_join(self._groups.roots), "unshare", "--cgroup"]
        command += _join(self._groups.visitors)
        command += ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--fork", "--kill-child"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, "sh", str(STAGE), "boot", str(self.tree), upper, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _find_init(self) -> psutil.Process | None:
        """The first process, once it has become systemd."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the sandbox ended while booting:\n{self._tail()}")
        try:
            children = psutil.Process(self._process.pid).children()
            return next((child for child in children if child.name() == "systemd"), None)
        except psutil.NoSuchProcess:
            return None

    def _wait_until_up(self) -> None:
        wait_for(
            "systemd to listen", (self.root / "run/systemd/private").exists, self._boot_seconds
        )
        words = ["systemctl", "is-system-running", "--wait"]
        state = self.run(words, code=None, timeout=self._boot_seconds).stdout.strip()
        if state not in ("running", "degraded"):
            raise AssertionError(f"the sandbox is {state!r}\n{self._tail()}\n{self.journal()}")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    # --- what it is ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Between a boot and its end."""
        return self._init is not None and self._init.is_running()

    @property
    def pid(self) -> int:
        """Its systemd's process id on the host."""
        assert self._init is not None, "not running"
        return self._init.pid

    @property
    def root(self) -> Path:
        """Its root folder, seen from the host. Links in it may be absolute: use `path`."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def controllers(self) -> frozenset[str]:
        """What units can be limited by in here (`memory`, `pids`, ...)."""
        return self._groups.controllers

    def path(self, inside: str | Path) -> Path:
        """The host's path of a file inside; also good to connect to a Unix socket."""
        return sandbox_files.inside(self.root, inside)

    def connect(self, port: int, seconds: float = 10) -> socket.socket:
        """A TCP connection to a port on the sandbox's loopback, for use by the test process."""
        return _within_network(
            self.pid, lambda: socket.create_connection(("127.0.0.1", port), seconds)
        )

    # --- files -----------------------------------------------------------------------------

    def copy_in(self, source: Path, inside: str | Path) -> None:
        """Copy a file or a folder to this path inside, owned by root."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def write_text(self, inside: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file inside, owned by root."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def read_text(self, inside: str | Path) -> str:
        """Read a file inside."""
        return self.path(inside).read_text()

    def snapshot(self, exclude: Sequence[str] = ()) -> Snapshot:
        """All files, to compare with `diff`; patterns as in sandbox_files (BOOKS: dpkg's own)."""
        return sandbox_files.snapshot(self.root, self.tree, exclude)

    # --- commands --------------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str | Path],
        *,
        code: int | None = 0,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - subprocess.run's name
        timeout: float = 60,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command inside to its end. `code` None: any exit code will do."""
        words = [str(part) for part in command]
        variables = [f"{k}={v}" for k, v in {**ENVIRONMENT, **(env or {})}.items()]
        enter = [*_join(self._groups.visitors), "nsenter", "--target", str(self.pid)]
        enter += [*NAMESPACES, "--cgroup", "--root", "--wd=/", "--", "env", "-i", *variables]
        if user is not None:
            enter += ["runuser", "-u", user, "--"]
        process = subprocess.Popen(
            [*enter, *words],
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            # nsenter forks: the whole group must go, or the command would outlive us inside.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if code is not None and process.returncode != code:
            said = f"exited {process.returncode}, wanted {code}\n{out}\n{err}"
            raise CommandFailed(f"in {self.name}: `{' '.join(words)}` {said}")
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def sh(self, script: str, *, code: int | None = 0, timeout: float = 60) -> str:
        """Run a shell script inside (`set -eu`); returns what it printed."""
        return self.run(["sh", "-euc", script], code=code, timeout=timeout).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit; all of them if none is named."""
        wanted = [f"--property={','.join(properties)}"] if properties else []
        text = self.run(["systemctl", "show", *wanted, "--", unit]).stdout
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def wait_unit(self, unit: str, state: str, seconds: float = 30) -> None:
        """Wait until a unit's ActiveState is `state`; shows its journal if that stays away."""
        try:
            wait_for(
                f"{unit} to be {state}",
                lambda: self.show(unit, "ActiveState")["ActiveState"] == state,
                seconds,
            )
        except AssertionError as error:
            seen = self.run(["systemctl", "status", "--no-pager", unit], code=None).stdout
            raise AssertionError(f"{error}\n{seen}\n{self.journal(unit)}") from None

    def journal(self, unit: str | None = None, namespace: str | None = None) -> str:
        """The journal of this boot, of one unit, of a namespace; empty if it cannot be read."""
        words = ["journalctl", "--no-pager", "--boot", "--lines=400", "--output=short-monotonic"]
        words += [f"--unit={unit}"] if unit else []
        words += [f"--namespace={namespace}"] if namespace else []
        return self.run(words, code=None).stdout


# What the `boot` fixture hands out: Sandbox with its tree and folder filled in.
Boot = Callable[..., Sandbox]


def _within_network(pid: int, action: Callable[[], socket.socket]) -> socket.socket:
    """Act in a process's network namespace. A socket made there stays there, whoever uses it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter_and_act() -> socket.socket:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return action()

    # Namespaces belong to threads: this one enters, acts and ends; the others stay where they are.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(enter_and_act).result()


def _join(groups: Sequence[Path]) -> list[str]:
    """Words before a command that put it into control groups."""
    return ["sh", str(STAGE), "join", *map(str, groups), "--"]
