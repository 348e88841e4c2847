"""The agent's HTTP connections: bounded, and turned away in the words of its own errors."""

from __future__ import annotations

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

from exclave_agent.errors import Unavailable
from exclave_http.bounded import BoundedProtocol

from .errors import tell
from .exchange import JSON, encode_json


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


class AgentProtocol(BoundedProtocol):
    """One of them."""

    turned_away: ASGI3Application = staticmethod(_turn_away)
