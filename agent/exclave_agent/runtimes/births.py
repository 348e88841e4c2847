"""Where a worker comes from: a child process of ours, or a service that systemd starts for us.

A child serves an agent that somebody runs by hand. As a service the agent may not start
programs with other rights than its own: it connects to a socket, and the service manager
starts a worker of another user, in a cgroup of its own and without a network, at its far end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from exclave_agent.runtimes import frames

STDERR_TAIL = 4096
"""Bytes kept of what a child prints, for the message when its load fails."""

KEEP_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""All that a child inherits: keys and tokens of the agent's environment are not its business."""

HANDED_MODE = 0o444
"""Of a model that is handed over; verified, and never changed again."""
HANDED_OVER = b"m"
"""The byte that carries the model's descriptor, and its adapters' in the order of the load, to a
service; see `service_worker`."""


class Body(Protocol):
    """The process behind a worker's socket."""

    pid: int | None
    """None: not ours to know."""

    async def drain(self) -> None:
        """Read what it prints until it prints no more."""
        ...

    def kill(self) -> None:
        """End it now. Closing its socket, which the caller does besides, ends it as well."""
        ...

    def limit_data(self, size: int) -> None:
        """Bound the private memory that it may map (RLIMIT_DATA), bytes: an allocation beyond
        fails inside it, long before the machine suffers. It is never raised again. Where somebody
        else bounds it: nothing."""
        ...

    async def ended(self) -> str:
        """Wait for its end; how it ended, in words. May be awaited again."""
        ...

    def last_line(self) -> str:
        """What it printed last, empty when that is not ours to know."""
        ...


Birth = Callable[[frames.Load], Awaitable[tuple[socket.socket, Body]]]
"""Starts a worker for a model: our end of its socket, nothing sent yet but what the birth itself
needs, and the body. Raises: OSError."""


class Child:
    """A worker that is a child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid: int | None = process.pid
        # A pid may be another's by the time it is signalled, and asyncio's own `kill` polls,
        # which takes the exit status away from whoever waits for it.
        self._pidfd = -1
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(process.pid)
        self._stderr = b""

    async def drain(self) -> None:
        """See `Body`; keeps the tail."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(STDERR_TAIL):
            self._stderr = (self._stderr + chunk)[-STDERR_TAIL:]

    def kill(self) -> None:
        """See `Body`."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def limit_data(self, size: int) -> None:
        """See `Body`."""
        assert self.pid is not None
        with contextlib.suppress(ProcessLookupError):
            # Hard as well: a worker that its model subverts would else lift it for itself.
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_DATA)
            size = size if hard == resource.RLIM_INFINITY else min(size, hard)
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (size, size))

    async def ended(self) -> str:
        """See `Body`."""
        status = await self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return describe_exit(status)

    def last_line(self) -> str:
        """See `Body`."""
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def program(*words: str) -> Birth:
    """Births of child processes: `words` start one, which gets its socket and its parent as
    `--fd` and `--parent`, and the model's path with its first frame."""

    async def born(_: frames.Load) -> tuple[socket.socket, Body]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    f"--fd={theirs.fileno()}",
                    f"--parent={os.getpid()}",
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env=worker_environment(os.environ),
                    cwd="/",
                    # A Ctrl-C at the agent's terminal is the agent's to handle.
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        return ours, Child(process)

    return born


async def child(load: frames.Load) -> tuple[socket.socket, Body]:
    """Birth of a real worker as a child process."""
    return await program(sys.executable, "-I", "-m", "exclave_agent.runtimes.worker")(load)


class Service:
    """A worker that is a service: systemd watches it, limits it and reaps it."""

    pid: int | None = None

    async def drain(self) -> None:
        """See `Body`: what it prints goes to the journal."""

    def kill(self) -> None:
        """See `Body`: it ends with its socket, or by its watchdog when it cannot even see that."""

    def limit_data(self, size: int) -> None:
        """See `Body`: its unit has a cgroup of its own, with MemoryMax."""

    async def ended(self) -> str:
        """See `Body`: not ours to wait for."""
        return "ended (the journal of its exclave-worker@ unit says how)"

    def last_line(self) -> str:
        """See `Body`."""
        return ""


def service(socket_path: Path) -> Birth:
    """Births by the service manager's socket at `socket_path`.

    The worker sees no file of the agent's: the open model and its adapters go with the first byte.
    """

    async def born(load: frames.Load) -> tuple[socket.socket, Body]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(socket_path))
            with contextlib.ExitStack() as stack:
                files = []
                for path in (load.path, *(one.path for one in load.adapters)):
                    file = stack.enter_context(open(path, "rb"))  # noqa: ASYNC230 - local
                    # A worker of another user maps the file by its descriptor, which asks for
                    # the right to read it. Nobody else gets here: the home is its user's alone.
                    os.fchmod(file.fileno(), HANDED_MODE)
                    files.append(file.fileno())
                # Into an empty queue: one byte never waits.
                socket.send_fds(sock, [HANDED_OVER], files)
        except BaseException:
            sock.close()
            raise
        return sock, Service()

    return born


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the agent's environment that a child gets."""
    return {name: environment[name] for name in KEEP_ENVIRONMENT if name in environment}


def describe_exit(status: int) -> str:
    """A return code of `subprocess` in words."""
    if status >= 0:
        return f"exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
