"""Requests that kill workers: known by their content, tried twice, and then never again.

A request that was in flight when a worker died is a suspect. Suspects run alone, so that the
next death has one culprit. Nothing of a request is kept but a keyed digest, in memory.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from exclave_agent.errors import Quarantined
from exclave_agent.ports import Clock
from exclave_agent.runtimes import frames

DEATHS = 2
"""A request that was in flight at so many is in quarantine."""
SECONDS = 3600.0
"""After this, a suspect or a culprit is forgotten: a worker may also die of something else."""
REMEMBERED = 4096
"""Requests; the oldest is forgotten for a newer one."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A request went into quarantine; nothing here is of its content."""

    model: str
    sha256: str


@dataclass(slots=True)
class _Suspect:
    deaths: int
    last: int
    """Serial of the worker that died last: one death counts once, however many copies of the
    request it took with it."""
    at: float


class Quarantine:
    """The suspects and the culprits of one agent."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        """`key` is drawn at every start and kept nowhere."""
        self._key = key
        self._clock = clock
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()

    def __len__(self) -> int:
        """Suspects and culprits; while there is none nobody needs a fingerprint."""
        return len(self._suspects)

    def fingerprint(self, model: str, frame: frames.ToWorker) -> bytes:
        """HMAC-SHA-256 over the content: who asks, when, how urgently and with which seed is none
        of it. A seed chooses among the answers to one request: clients that draw a new one at
        every try must not have a poison tried again and again."""
        same = msgspec.structs.replace(frame, id=0)
        if isinstance(same, frames.Generate):
            same = msgspec.structs.replace(
                same,
                caller="",
                priority="interactive",
                timeout_us=None,
                sampling=msgspec.structs.replace(same.sampling, seed=0),
            )
        mac = hmac.new(self._key, model.encode() + b"\0", "sha256")
        mac.update(frames.encode(same))
        return mac.digest()

    def check(self, fingerprint: bytes) -> bool:
        """Whether a request is a suspect, and must run alone. Raises: Quarantined."""
        found = self._suspects.get(fingerprint)
        if found is None:
            return False
        if self._clock.monotonic() - found.at >= SECONDS:
            del self._suspects[fingerprint]
            return False
        if found.deaths >= DEATHS:
            raise quarantined()
        return True

    def guilty(self, fingerprint: bytes) -> bool:
        """Whether it is in quarantine."""
        found = self._suspects.get(fingerprint)
        return found is not None and found.deaths >= DEATHS

    def strike(self, fingerprint: bytes, worker: int) -> bool:
        """It was in flight when a worker died; whether this put it into quarantine."""
        now = self._clock.monotonic()
        found = self._suspects.setdefault(fingerprint, _Suspect(0, -1, now))
        self._suspects.move_to_end(fingerprint)
        while len(self._suspects) > REMEMBERED:
            self._suspects.popitem(last=False)
        found.at = now
        if found.last == worker:
            return False
        found.last = worker
        found.deaths += 1
        return found.deaths == DEATHS

    def clear(self, fingerprint: bytes) -> None:
        """It was answered: whatever killed the worker, it was not this."""
        self._suspects.pop(fingerprint, None)


def quarantined() -> Quarantined:
    """What a caller is told."""
    return Quarantined(
        f"this request was with the model's worker at {DEATHS} deaths of it and is not tried again"
    )
