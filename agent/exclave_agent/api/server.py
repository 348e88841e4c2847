"""Serve the application on loopback TCP and a Unix socket, inside the agent's own task group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exclave_agent.errors import AgentError

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers."""
HEAD_SECONDS = 10.0
"""For request line and headers to arrive, from the connection's first byte on."""
KEEP_ALIVE_SECONDS = 75
LINGER_SECONDS = 0.5
"""For the first request of a connection that was accepted just before the stop."""
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

    MUST: no request runs any more when this returns, however it returns.

    Raises: CannotListen before anything is served. Signals are left to the agent.
    """
    sockets: list[socket.socket] = []
    ours: Path | None = None
    failure: Exception | None = None
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
        config = uvicorn.Config(
            app,
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=max_connections,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(stop_grace)),
            backlog=min(1024, max_connections),
        )
        server = _Server(config)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.serve(sockets))
            await server.ready(running)
            hurrying = group.create_task(server.hurry_at(hurry or asyncio.Event()))
            try:
                yield Listening(bound[0], bound[1], unix)
            except Exception as error:  # noqa: BLE001  # carried out of the group unwrapped
                failure = error
            finally:
                # Before the group sees an error and cancels: in-flight requests get their time.
                server.finish()
                try:
                    await asyncio.shield(running)
                except asyncio.CancelledError:
                    server.force_exit = True
                    await asyncio.shield(running)
                    raise
                finally:
                    hurrying.cancel()
        if failure is not None:
            raise failure
    finally:
        for each in sockets:
            each.close()
        if ours is not None:
            ours.unlink(missing_ok=True)  # one system call


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._started = asyncio.Event()
        self._finishing = asyncio.Event()

    def finish(self) -> None:
        """Stop accepting, and let running requests end."""
        self.should_exit = True
        self._finishing.set()

    async def main_loop(self) -> None:
        # The base looks ten times a second whether it should end: told instead, an idle agent
        # sleeps, and one that stops does so at once. A tick renews the Date header.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._finishing.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set()

    async def hurry_at(self, told: asyncio.Event) -> None:
        """Once told, do not wait for running requests when stopping."""
        await told.wait()
        self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()
        # uvicorn cancels what is left and goes; each of those still has a record to hand over.
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)

    async def ready(self, running: asyncio.Task[None]) -> None:
        """Return once connections are accepted, or when `running` has failed."""
        running.add_done_callback(lambda _: self._started.set())
        await self._started.wait()


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the request head, which httptools leaves open: a
    connection that sends headers for ever, or none at all, is closed."""

    _arrived = 0
    """Bytes received while a head is incomplete."""
    _parsed = 0
    """Bytes of its complete parts."""
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _last = False
    """The request that comes is the last one of this connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        # The base would close a connection whose first request is still on its way: its client
        # connected in good faith, and the next process will not see it.
        if self.cycle is None and not self.transport.is_closing():
            self._last = True
            self._stop_timer()
            self._head_timer = self.loop.call_later(LINGER_SECONDS, self._head_late)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._head_timer is None:  # a further request on a kept connection
                self._expect_head()
            self._arrived += len(data)
        super().data_received(data)
        # One endless header is not seen by the callbacks below until it ends.
        if self._in_head and self._arrived > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._parsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._arrived = 0
        self._stop_timer()
        super().on_headers_complete()
        if self._last and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        # A refused body is discarded, so that its sender gets to read why; but not for ever.
        if self.cycle.response_complete and self._head_timer is None:
            self._expect_head()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._stop_timer()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > MAX_HEAD:
            raise ValueError("request head too large")  # httptools turns it into a 400

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # the answer before it is still being given
        elif not self.transport.is_closing():
            self.transport.close()


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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CannotListen(
            f"cannot listen on {host}:{port}: {error.strerror}; set `listen` to a free port"
        ) from error
    sock.setblocking(False)
    return sock


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
