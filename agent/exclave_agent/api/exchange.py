"""One HTTP request and its response, over bare ASGI: limits, headers, and a caller who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from exclave_agent.ports import Caller

from .errors import BodyTimeout, BodyTooLarge, ClientGone, UnsupportedMedia

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"
encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take."""

    body_bytes: int = 4 * 1024 * 1024
    body_seconds: float = 30.0
    """For the whole body to arrive."""
    send_seconds: float = 30.0
    """For a caller that has stopped reading to take the next piece; then it counts as gone."""


class Exchange:
    """A request being answered. `caller` is set once the key is known."""

    __slots__ = (
        "_receive",
        "_scope",
        "_send",
        "caller",
        "decided",
        "headers",
        "limits",
        "request_id",
        "started",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: Limits, request_id: str
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.limits = limits
        self.request_id = request_id
        """Also the id of the decision, if it comes to one."""
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.caller: Caller | None = None
        self.decided = False
        """Whether the request reached the decision path, so that a record may exist."""
        self.started = False
        """Whether the response has begun: its status can no longer be changed."""

    @property
    def path_params(self) -> dict[str, str]:
        """What the route's placeholders matched."""
        params: dict[str, str] = self._scope["path_params"]
        return params

    @property
    def peer(self) -> str | None:
        """The caller's address; None on a Unix socket."""
        client = self._scope.get("client")
        return client[0] if client else None

    async def body(self) -> bytes:
        """The whole body.

        Raises: UnsupportedMedia, BodyTooLarge as soon as it is known, BodyTimeout, ClientGone.
        """
        if self.headers.get(b"content-encoding", b"identity") not in (b"identity", b""):
            raise UnsupportedMedia("content-encoding: only identity is understood")
        limit = self.limits.body_bytes
        announced = self.headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes")
        message = await self._first_part()
        part: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(part) <= limit:
            return part
        parts, size = [part], len(part)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while message.get("more_body", False) and size <= limit:
                    message = await self._next_part()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
        except TimeoutError:
            raise BodyTimeout(
                f"the body did not arrive within {self.limits.body_seconds:g} s"
            ) from None
        if size > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes")
        return b"".join(parts)

    async def _first_part(self) -> Message:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await self._next_part()
        except TimeoutError:
            raise BodyTimeout("the body did not begin to arrive in time") from None

    async def _next_part(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, and cancel it when the caller goes; call after the body was read.

        Raises: ClientGone then, and whatever `work` raises.
        """
        failure: Exception | None = None
        gone = False
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch())
                try:
                    await work
                except Exception as error:  # noqa: BLE001  # carried out of the group unwrapped
                    failure = error
                watcher.cancel()
        except* ClientGone:
            gone = True
        if failure is not None:
            raise failure
        if gone:
            raise ClientGone

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone

    # --- answering ---------------------------------------------------------------------------

    async def respond(
        self, status: int, content_type: bytes, body: bytes, headers: Headers = ()
    ) -> None:
        """The whole response at once."""
        await self._start(
            status, content_type, ((b"content-length", str(len(body)).encode()), *headers)
        )
        await self._transmit({"type": "http.response.body", "body": body, "more_body": False})

    async def respond_json(self, status: int, value: Any, headers: Headers = ()) -> None:
        """The whole response, of `value` as JSON."""
        await self.respond(status, JSON, encode_json(value), headers)

    async def begin(self, content_type: bytes, headers: Headers = ()) -> None:
        """Begin a response of unknown length; then `piece` until `end`."""
        await self._start(200, content_type, headers)

    async def piece(self, data: bytes) -> None:
        """The next part of a begun response. Raises: ClientGone when nobody reads."""
        await self._transmit({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last part of a begun response."""
        await self._transmit({"type": "http.response.body", "body": data, "more_body": False})

    async def _start(self, status: int, content_type: bytes, headers: Headers) -> None:
        self.started = True
        name = self.request_id.encode()
        all_headers = [(b"content-type", content_type), (b"x-request-id", name), *headers]
        if self.decided:
            all_headers.append((b"x-exclave-decision", name))
        await self._transmit(
            {"type": "http.response.start", "status": status, "headers": all_headers}
        )

    async def _transmit(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self.limits.send_seconds):
                await self._send(message)
        except (TimeoutError, OSError):
            raise ClientGone from None
