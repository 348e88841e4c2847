"""The agent's own request headers: how a call is to be treated, beside what it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from exclave_agent.decide.calls import CacheUse
from exclave_agent.errors import BadRequest
from exclave_agent.ports import Priority

from .parse import label

DATA_CLASS = "x-exclave-data-class"
PRIORITY = "x-exclave-priority"
TIMEOUT = "x-exclave-timeout-ms"
WORKFLOW = "x-exclave-workflow"
RUN = "x-exclave-run"
CACHE = "x-exclave-cache"
NOTICE = "x-exclave-notice"
"""Of an answer: a text of the policy for people to see beside it."""
MAX_TIMEOUT_MS = 86_400_000
"""A day."""
MAX_RUN = 128
"""Characters."""
_PRIORITIES = ("interactive", "batch")
_CACHES = ("auto", "off", "force")


@dataclass(frozen=True, slots=True)
class Treatment:
    """What the headers of one request say; None where they say nothing."""

    data_class: str = ""
    workflow: str = ""
    run: str = ""
    priority: Priority | None = None
    timeout: float | None = None
    """Seconds."""
    cache: CacheUse | None = None

    def of_generated(self) -> dict[str, Any]:
        """The fields that only calls for generated text have, where they were given."""
        given = {"priority": self.priority, "timeout": self.timeout, "cache": self.cache}
        return {name: value for name, value in given.items() if value is not None}

    def only_common(self) -> Treatment:
        """Itself, for a call that is not for generated text.

        Raises: BadRequest when a header was given that would be without effect.
        """
        for name, value in (
            (PRIORITY, self.priority),
            (TIMEOUT, self.timeout),
            (CACHE, self.cache),
        ):
            if value is not None:
                raise BadRequest(
                    f"{name}: only for chat and text completions",
                    param=name,
                    code="unsupported_parameter",
                )
        return self


def read(headers: Mapping[bytes, bytes]) -> Treatment:
    """The request's treatment. Raises: BadRequest naming the header, never its value."""
    return Treatment(
        data_class=label(_text(headers, DATA_CLASS), DATA_CLASS),
        workflow=label(_text(headers, WORKFLOW), WORKFLOW),
        run=_run(_text(headers, RUN)),
        priority=cast("Priority | None", _one_of(headers, PRIORITY, _PRIORITIES)),
        timeout=_timeout(headers),
        cache=cast("CacheUse | None", _one_of(headers, CACHE, _CACHES)),
    )


def notice_headers(notices: Sequence[str]) -> tuple[tuple[bytes, bytes], ...]:
    """One header for each."""
    return tuple((NOTICE.encode(), text.encode("ascii", "replace")) for text in notices)


def _text(headers: Mapping[bytes, bytes], name: str) -> str:
    return headers.get(name.encode(), b"").decode("latin-1")


def _one_of(headers: Mapping[bytes, bytes], name: str, known: tuple[str, ...]) -> str | None:
    value = _text(headers, name)
    if not value:
        return None
    if value not in known:
        raise BadRequest(f"{name}: not one of {', '.join(known)}", param=name)
    return value


def _timeout(headers: Mapping[bytes, bytes]) -> float | None:
    value = _text(headers, TIMEOUT)
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:12]) <= MAX_TIMEOUT_MS:
        raise BadRequest(
            f"{TIMEOUT}: not a whole number of milliseconds from 1 to {MAX_TIMEOUT_MS}",
            param=TIMEOUT,
        )
    return int(value) / 1000


def _run(value: str) -> str:
    if len(value) > MAX_RUN or not (value.isascii() and value.isprintable()):
        raise BadRequest(f"{RUN}: not 0 to {MAX_RUN} printable ASCII characters", param=RUN)
    return value
