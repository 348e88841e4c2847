"""One HTTP connection within bounds: what it may send, how long it may say or read nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from exclave_agent.errors import Unavailable

from .errors import tell
from .exchange import JSON, encode_json

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers."""
HEAD_SECONDS = 10.0
"""For request line and headers to arrive, from the connection's first byte on."""
LINGER_SECONDS = 0.5
"""For the first request of a connection that was accepted just before the stop."""
CLOSE_SECONDS = 10.0
"""For a closed connection's last bytes to be read."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds: on the request head, which httptools leaves open, on the
    number of connections, and on how long one may stay that nobody reads.

    A connection that sends headers for ever, or none at all, is closed after `HEAD_SECONDS`;
    before that it is the first to give way to a new one.
    """

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
        super()._start_asgi_task(cycle, _turn_away if full else app)

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


async def _turn_away(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answers for the application while it has as many requests as it may have."""
    told = tell(
        Unavailable(
            "as many requests are being answered as `max_connections` allows: try again",
            code="too_many_requests",
        ),
        "",
    )
    body = encode_json(told.openai())
    headers = [
        (b"content-type", JSON),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *told.headers,
    ]
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
