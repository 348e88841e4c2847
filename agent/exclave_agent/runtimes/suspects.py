"""Whom a worker's death may be blamed on: what it held, and what it was just told to forget."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

LINGERING = 10.0
"""Seconds: a request that its caller gave up so shortly before a death may have caused it. Who
sends what kills and hangs up at once is a suspect all the same."""
REMEMBERED = 1024
"""Requests that were given up; the oldest is forgotten for a newer one."""


class Request(Protocol):
    """A request that a worker has."""

    @property
    def caller(self) -> str:
        """Who asked; "": not known."""
        ...

    def fingerprint(self) -> bytes:
        """See `Quarantine.fingerprint`."""
        ...


@dataclass(frozen=True, slots=True)
class _GivenUp:
    at: float
    fingerprint: bytes
    caller: str


class Suspects:
    """Those of one worker. `close` MUST be called when it dies."""

    def __init__(self) -> None:
        self._held: set[Request] = set()
        self._given_up: deque[_GivenUp] = deque(maxlen=REMEMBERED)
        self._closed = False
        self.hung_for = 0.0
        """Seconds without progress for which the worker is being killed: what was given up in
        that time may be what it hangs in."""
        self.alone = False
        """The worker serves one request that nothing else may run beside."""
        self.sure = True
        """After its death: whether what it held can be blamed. Not so where that was one request,
        alone, and another that was given up may still have been with the worker."""

    def take(self, request: Request) -> None:
        """The worker has it."""
        self._held.add(request)

    def answered(self, request: Request) -> None:
        """It was, or was refused: no suspect."""
        self._held.discard(request)

    def give_up(self, request: Request) -> None:
        """Its caller wants no answer any more, and the worker may not know that yet."""
        if request in self._held and not self._closed:
            self._held.discard(request)
            self._given_up.append(_GivenUp(_now(), request.fingerprint(), request.caller))

    @property
    def lingering(self) -> bool:
        """Whether the worker may still be busy with what was given up."""
        return bool(self._given_up) and self._given_up[-1].at > self._since()

    def acquit(self) -> None:
        """The worker has let go of all that was given up, and lives."""
        if not self._closed:
            self._given_up.clear()

    def close(self) -> None:
        """It has died."""
        self._closed = True
        self.sure = not (self.alone and self.lingering)
        while self._given_up and self._given_up[0].at <= self._since():
            self._given_up.popleft()

    def _since(self) -> float:
        return _now() - LINGERING - self.hung_for

    def accused(self) -> dict[bytes, str]:
        """After its death: fingerprints of the suspects, and their callers."""
        held = {one.fingerprint(): one.caller for one in self._held} if self.sure else {}
        return held | {one.fingerprint: one.caller for one in self._given_up}


def _now() -> float:
    return asyncio.get_running_loop().time()
