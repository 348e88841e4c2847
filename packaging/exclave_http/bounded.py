"""HTTP within bounds, for agent and coordinator: what a connection may send, how long it may say
or read nothing, and a server that lives inside its owner's task group."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers."""
HEAD_SECONDS = 10.0
"""For request line and headers to arrive, from the connection's first byte on."""
LINGER_SECONDS = 0.5
"""For the first request of a connection that was accepted just before the stop."""
CLOSE_SECONDS = 10.0
"""For a closed connection's last bytes to be read."""
KEEP_ALIVE_SECONDS = 75


async def turn_away(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answers for the application while it has as many requests as it may have."""
    body = b"as many requests are being answered as may be: try again\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds: on the request head, which httptools leaves open, on the
    number of connections, and on how long one may stay that nobody reads.

    A connection that sends headers for ever, or none at all, is closed after `HEAD_SECONDS`;
    before that it is the first to give way to a new one.
    """

    turned_away: ASGI3Application = staticmethod(turn_away)
    """What answers while there are as many requests as may be."""

    _arrived = 0
    """Bytes received while a head is incomplete."""
    _parsed = 0
    """Bytes of its complete parts."""
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _last = False
    """The request that comes is the last one of this connection."""
    _quiet_since = 0.0
    """On the loop's clock: when it was opened, or its last answer was complete."""
    _closing_since: float | None = None
    _lingers = False
    """It has answered, and is closed as soon as the rest of a refused body has come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The base would turn every request away while that many connections are open, whatever
        # they do: silent ones would lock out the others.
        self._most = self.limit_concurrency
        self.limit_concurrency = None

    @property
    def busy(self) -> bool:
        """Whether a request of it is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """What must go first has the least: what is closing anyway, then what never had a whole
        request, then what has been quiet for longest."""
        return not self.transport.is_closing(), self.cycle is not None, self._quiet_since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._quiet_since = self.loop.time()
        self._expect_head()
        if self._most is not None and len(self.connections) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        quiet = [
            each
            for each in self.connections
            if isinstance(each, BoundedProtocol) and each is not self and not each.busy
        ]
        # All of them busy: this one stays, and gives way to the next.
        if quiet:
            min(quiet, key=lambda each: each.worth).transport.abort()

    def reap(self) -> None:
        """Called now and then: a closed connection whose last bytes nobody reads is dropped, for
        the system would keep it as long as its peer likes."""
        if not self.transport.is_closing():
            return
        now = self.loop.time()
        if self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since >= CLOSE_SECONDS:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        full = self._most is not None and len(self.tasks) >= self._most
        super()._start_asgi_task(cycle, self.turned_away if full else app)

    def on_response_complete(self) -> None:
        self._quiet_since = self.loop.time()
        super().on_response_complete()

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
        if self.cycle is None:
            return
        if self._last:
            self.cycle.keep_alive = False
        # Its task has not run yet.
        self.cycle.transport = cast("asyncio.Transport", _Lingering(self, self.cycle))

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        # A refused body is discarded, so that its sender gets to read why; but not for ever.
        if self.cycle.response_complete and self._head_timer is None:
            self._expect_head()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._stop_timer()
        super().on_message_complete()
        if self._lingers and not self.transport.is_closing():
            self.transport.close()

    def close_after(self, cycle: RequestResponseCycle) -> None:
        """Close, once the answer that is given has a reader: to close on a sender in mid-body
        would reset the connection, and take the refusal away from it."""
        if cycle is not self.cycle or not cycle.more_body or self.transport.is_closing():
            self.transport.close()
            return
        self._lingers = True
        self.transport.write_eof()
        self._expect_head()

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


class _Lingering:
    """A cycle's transport, whose `close` waits for the request's end."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: BoundedProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def close(self) -> None:
        """See `BoundedProtocol.close_after`."""
        self._protocol.close_after(self._cycle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)


@contextlib.asynccontextmanager
async def served(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    *,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    max_connections: int = 256,
    stop_grace: float = 20.0,
    hurry: asyncio.Event | None = None,
) -> AsyncIterator[None]:
    """Serve `app` on bound sockets until the block ends; then stop accepting, let running
    requests finish for `stop_grace` seconds and cancel the rest. Setting `hurry`, or cancelling
    the block's task meanwhile, ends that wait at once.

    `max_connections` bounds the requests that are answered at a time, one more is turned away,
    and the connections that are open: a further one takes the place of the one that has said
    nothing for longest.

    MUST: no request runs any more when this returns, however it returns.

    Signals are left to the owner, and so is closing the sockets.
    """
    config = uvicorn.Config(
        app,
        http=protocol,
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
    failure: Exception | None = None
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.serve(list(sockets)))
        await server.ready(running)
        hurrying = group.create_task(server.hurry_at(hurry or asyncio.Event()))
        try:
            yield
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


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet. Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


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
        # sleeps, and one that stops does so at once. A tick renews the Date header, and ends
        # connections that nobody reads.
        while not await self.on_tick(0):
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.reap()
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
