"""The agent's log on stderr: what happened and where, never what it was about."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from types import TracebackType
from typing import Any, TextIO

from exclave_agent.errors import AgentError, unforeseen
from exclave_service.journal import JournalHandler, is_our_stderr

CHATTY = ("apscheduler", "tuf", "uvicorn")
"""Libraries whose every step is of no use to an operator."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger(__name__)


class DiscreetFormatter(logging.Formatter):
    """Formats exceptions without their texts, which may quote a request: a library that logs
    an exception it caught does not know whose data is in it."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # where another handler's formatter leaves its full text
        return super().format(record)

    def formatException(self, ei: _ExcInfo) -> str:
        return "" if ei[1] is None else tell(ei[1])


class DiscreetHandler(logging.StreamHandler[TextIO]):
    """Says where a line could not be written; the base would print its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
            self.stream.write(f"a line of {record.name}:{record.lineno} cannot be written\n")


def tell(error: BaseException) -> str:
    """An error in one line. Of our own errors the message, which holds no data."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(tell, error.exceptions)))
    return error.message if isinstance(error, AgentError) else unforeseen(error)


def start(level: str) -> None:
    """Log from `level` on: to the journal where stderr leads there anyway, else to stderr."""
    logging.getLogger().addHandler(_journal() or _stderr())
    logging.getLogger().setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from another level on."""
    logging.getLogger().setLevel(level.upper())


def _stderr() -> logging.Handler:
    handler = DiscreetHandler(sys.stderr)
    handler.setFormatter(DiscreetFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _journal() -> logging.Handler | None:
    """With the journal's own fields: priority, logger, and those that a record brings."""
    if not is_our_stderr():
        return None
    try:
        handler = JournalHandler("exclave-agent")
    except OSError:
        return None  # stderr still leads there, without the fields
    handler.setFormatter(DiscreetFormatter("%(name)s: %(message)s"))
    return handler


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Report what no task waited for. asyncio's own report shows the failed task, with the
    text of its exception."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        cause = f": {tell(error)}" if isinstance(error, BaseException) else ""
        log.error("event loop: %s%s", context.get("message", "unknown trouble"), cause)

    loop.set_exception_handler(report)
