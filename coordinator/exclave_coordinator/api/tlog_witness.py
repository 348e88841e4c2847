"""The witness over HTTP, as C2SP tlog-witness has it: one call, bounded in size and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from exclave_coordinator.audit.answers import TEXT, answer_of, status_of
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.errors import CoordinatorError, Invalid, StorageError, TooMuch
from exclave_protocol.errors import NoteError
from exclave_protocol.witness import MAX_BODY, PATH, AddCheckpoint

log = logging.getLogger(__name__)

BODY_SECONDS: Final = 10.0
"""For a request's body to arrive."""
LATE: Final = 408
"""Status of one that did not."""


class WitnessApi:
    """The application; `counted` is told the status of every answer."""

    def __init__(self, witness: Witness, counted: Callable[[int], None]) -> None:
        self._witness = witness
        self._counted = counted
        self.app = Starlette(routes=[Route(PATH, self._add_checkpoint, methods=["POST"])])

    async def _add_checkpoint(self, request: Request) -> Response:
        status, kind, body = await self._answer(request)
        self._counted(status)
        # Spelt out, as the framework would add a charset to any text: a size has none.
        headers = {"content-type": kind}
        if status in (LATE, 413):
            # A body that was not read to its end cannot be followed by another request.
            headers["connection"] = "close"
        return Response(body, status, headers)

    async def _answer(self, request: Request) -> tuple[int, str, bytes]:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(request)
            line = await self._witness.add_checkpoint(_parsed(body))
        except TimeoutError:
            return LATE, TEXT, b"the body came too slowly\n"
        except ClientDisconnect:
            return 400, TEXT, b"the body ended early\n"
        except CoordinatorError as error:
            if isinstance(error, StorageError):
                log.error("storage (%s): %s", error.code, error.message)
            return answer_of(error)
        except Exception as error:
            # What we did not foresee stays in our log.
            log.exception("add-checkpoint failed")
            return status_of(error), TEXT, b"the witness failed\n"
        return 200, TEXT, line


async def _read(request: Request) -> bytes:
    """The body, at most MAX_BODY bytes of it. Raises: TooMuch, Invalid, ClientDisconnect."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Invalid("content-encoding: must be absent")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and (len(stated) > 9 or int(stated) > MAX_BODY):
        raise TooMuch(f"request: more than {MAX_BODY} bytes")
    pieces, room = [], MAX_BODY
    async for piece in request.stream():
        room -= len(piece)
        if room < 0:
            raise TooMuch(f"request: more than {MAX_BODY} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(body: bytes) -> AddCheckpoint:
    try:
        return AddCheckpoint.parse(body)
    except NoteError as error:
        raise Invalid(error.message, code="note") from error
