"""Serve the application on loopback TCP and a Unix socket, inside the agent's own task group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.types import ASGIApp

from exclave_agent.errors import AgentError
from exclave_http.bounded import bind_tcp, served

from .connections import AgentProtocol

SOCKET_MODE = 0o660
"""Who may connect to the Unix socket: owner and group; the API key is asked for besides."""
LONGEST_SOCKET_PATH = 107
"""Bytes; unix(7)."""


class CannotListen(AgentError):
    """The address is taken, not ours to bind, or not a socket."""

    code = "cannot_listen"


class SocketKeeper(Protocol):
    """Keeps listening sockets from one run to the next."""

    def take(self, name: str, address: object) -> socket.socket | None:
        """The kept socket of that name and address: a path, or (host, port)."""
        ...

    def keep(self, name: str, sock: socket.socket) -> bool:
        """Keep it beyond this run; False: nobody does."""
        ...

    def let_go(self) -> None:
        """Of every kept socket that was not taken."""
        ...


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the agent answers now."""

    host: str | None
    port: int | None
    unix: Path | None

    @property
    def base_url(self) -> str:
        """The TCP address as a URL without a path."""
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8181,
    unix: Path | None = None,
    unix_mode: int = SOCKET_MODE,
    max_connections: int = 256,
    stop_grace: float = 20.0,
    hurry: asyncio.Event | None = None,
    keeper: SocketKeeper | None = None,
) -> AsyncIterator[Listening]:
    """Serve `app` until the block ends; then stop accepting, let running requests finish for
    `stop_grace` seconds and cancel the rest (which are recorded as cancelled). Setting `hurry`,
    or cancelling the block's task meanwhile, ends that wait at once.

    `max_connections` bounds the requests that are answered at a time, one more is turned away,
    and the connections that are open: a further one takes the place of the one that has said
    nothing for longest.

    MUST: no request runs any more when this returns, however it returns.

    Raises: CannotListen before anything is served. Signals are left to the agent.
    """
    sockets: list[socket.socket] = []
    ours: Path | None = None
    try:
        if host is not None:
            sockets.append(_tcp(host, port, keeper))
        bound = sockets[0].getsockname() if sockets else (None, None)
        if unix is not None:
            bound_unix, kept = _unix(unix, unix_mode, keeper)
            sockets.append(bound_unix)
            # The path of a socket that is kept must stay: clients find it there meanwhile.
            ours = None if kept else unix
        if keeper is not None:
            keeper.let_go()
        async with served(
            app,
            sockets,
            protocol=AgentProtocol,
            max_connections=max_connections,
            stop_grace=stop_grace,
            hurry=hurry,
        ):
            yield Listening(bound[0], bound[1], unix)
    finally:
        for each in sockets:
            each.close()
        if ours is not None:
            ours.unlink(missing_ok=True)  # one system call


def _tcp(host: str, port: int, keeper: SocketKeeper | None) -> socket.socket:
    if keeper is None or port == 0:
        return _bind_tcp(host, port)
    address = ("127.0.0.1" if host == "localhost" else host, port)
    sock = keeper.take("http", address)
    if sock is None:
        sock = _bind_tcp(host, port)
        keeper.keep("http", sock)
    sock.setblocking(False)
    return sock


def _unix(path: Path, mode: int, keeper: SocketKeeper | None) -> tuple[socket.socket, bool]:
    """The socket, and whether it is kept beyond this run."""
    if keeper is None:
        return _bind_unix(path, mode), False
    # Without its path nobody can reach the kept socket: its folder went with a stop.
    sock = keeper.take("unix", str(path) if path.is_socket() else None)
    if sock is not None:
        sock.setblocking(False)
        return sock, True
    sock = _bind_unix(path, mode)
    return sock, keeper.keep("unix", sock)


def _bind_tcp(host: str, port: int) -> socket.socket:
    try:
        return bind_tcp(host, port)
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {host}:{port}: {error.strerror}; set `listen` to a free port"
        ) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full: somebody holds it
        except OSError:
            return False
    return True


def _bind_unix(path: Path, mode: int) -> socket.socket:
    """Bind, replacing the socket that a former run left behind, and nothing else."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise CannotListen(
            f"cannot listen on {path}: the path is longer than {LONGEST_SOCKET_PATH} bytes, more "
            "than a Unix socket can have; use a home with a shorter path"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise CannotListen(f"{path} exists and is not a socket: move it away")
            if _answers(path):
                raise CannotListen(f"cannot listen on {path}: another process answers there")
            path.unlink()
        sock.bind(str(path))
        os.chmod(path, mode)
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {path}: {error.strerror}") from error
    except CannotListen:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
