"""The local control socket: what the command line asks of the running agent; its user's only.

Not the HTTP API: no key is asked for, because the socket is the user's alone,
and so is the folder it lies in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exclave_agent.errors import AgentError

CONTROL_SOCKET = "run/control.sock"
"""Relative to home."""
CONTROL_MODE = 0o600


def build_control(
    status: Callable[[], Mapping[str, Any]],
    records: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
    reload: Callable[[], Awaitable[Mapping[str, Any]]],
    upgrade: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
) -> Starlette:
    """The control application: `status` is one JSON-ready look, `records` does what is asked with
    records and says what it did, `reload` reads the settings again and says what changed,
    `upgrade` asks for another version of this agent."""

    async def read_status(_: Request) -> Response:
        return _json(status())

    async def do_with_records(request: Request) -> Response:
        return await _answer(records(json.loads(await request.body())))

    async def reload_settings(_: Request) -> Response:
        return await _answer(reload())

    async def ask_for_upgrade(request: Request) -> Response:
        asked = json.loads(await request.body())
        return await _answer(upgrade(asked))

    return Starlette(
        routes=[
            Route("/status", read_status),
            Route("/records", do_with_records, methods=["POST"]),
            Route("/reload", reload_settings, methods=["POST"]),
            Route("/upgrade", ask_for_upgrade, methods=["POST"]),
        ]
    )


async def _answer(work: Awaitable[Mapping[str, Any]]) -> Response:
    try:
        return _json(await work)
    except AgentError as error:
        return _json({"error": error.message, "code": error.code}, 400)


def _json(body: Mapping[str, Any], code: int = 200) -> Response:
    return Response(json.dumps(body), code, media_type="application/json")
