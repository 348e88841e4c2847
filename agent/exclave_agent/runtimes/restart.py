"""When a dead worker is started again, and what its deaths say about its model."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from exclave_agent.ports import Rng


@dataclass(frozen=True, slots=True)
class Crash:
    """One death of a worker after its first load, for metrics and the audit log."""

    model: str
    sha256: str
    reason: str
    """How the process ended, in words without data."""
    in_a_row: int
    """Deaths without a stable minute in between, without those that one request is to blame
    for; from `LOOP` on it is a crash loop."""
    retry_in: float
    """Seconds until the next start."""


LOOP = 3
"""Crashes in a row that count as a crash loop: requests are then refused at once."""
MOST = 64
"""Deaths in a row that are remembered with their suspects."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. All waiting of the supervisor, in one place."""

    load: float = 300.0
    """For a model to load, room for it included."""
    room: float = 10.0
    """A request for an evicted model waits this long for others to become idle."""
    restart_wait: float = 15.0
    """A request waits this long for a worker that is being restarted."""
    first_backoff: float = 0.2
    longest_backoff: float = 30.0
    stable: float = 60.0
    """A worker that lived this long starts its backoff anew."""
    shutdown: float = 5.0
    """From `Shutdown` to SIGKILL."""
    drain: float = 30.0
    """Requests in flight get this long when the supervisor closes."""
    ping: float = 10.0
    hung: float = 120.0
    """Busy without one engine step for this long: the worker is killed."""


class Deaths:
    """Counts one model's deaths, apart from those that one caller's requests explain.

    A request that was with a worker at its death is a suspect: tried again alone, it is answered,
    and then the death was the model's own, or it kills once more and is the culprit of both.
    Suspects that are not tried again (their caller hung up, or had a part of the answer) stay
    suspects; deaths that all have one of the same caller do not speak against the model. So no
    caller with poisoned requests, however hasty, reverts a release. But a model that never
    answered anything, and that one request after another kills, is to blame itself.
    """

    def __init__(self, timings: Timings, rng: Rng) -> None:
        self._timings = timings
        self._rng = rng
        self.recent = 0
        """All of them since the last stable minute."""
        self._row: deque[dict[bytes, str]] = deque(maxlen=MOST)
        """Of each death without a culprit: the suspects that are left, and their callers."""
        self._convicted = 0
        self._answered = False

    def count(
        self, *, lived: float, suspects: Mapping[bytes, str], guilty: bool, answered: bool
    ) -> float:
        """One more. `suspects`: fingerprints of the requests that may have caused it, and their
        callers; `guilty`: one of them has been found to kill. `answered`: the model has answered
        a request since its first load. Returns the seconds until the next start."""
        if lived >= self._timings.stable:
            self.recent = self._convicted = 0
            self._row.clear()
        self.recent += 1
        self._answered = answered
        if guilty:
            self._convicted += 1
        else:
            self._row.append(dict(suspects))
        return self._backoff()

    def convict(self, fingerprint: bytes) -> None:
        """A request kills workers: the deaths at which it was there are its own."""
        left = [one for one in self._row if fingerprint not in one]
        self._row.clear()
        self._row.extend(left)

    def acquit(self, fingerprint: bytes) -> None:
        """A request was answered: it has killed nobody."""
        for one in self._row:
            one.pop(fingerprint, None)

    @property
    def in_a_row(self) -> int:
        """Those that no one caller's requests explain."""
        blamed = [set(one.values()) for one in self._row if one]
        count = len(self._row) - len(blamed)
        if blamed and not set.intersection(*blamed):
            count += len(blamed)
        if not self._answered and self._convicted >= LOOP:
            count = max(count, self._convicted)
        return count

    @property
    def looping(self) -> bool:
        """Whether this is a crash loop."""
        return self.in_a_row >= LOOP

    def _backoff(self) -> float:
        """Nothing after a first crash, then doubling; the upper half of it is chance."""
        if self.recent <= 1:
            return 0.0
        full = min(
            self._timings.longest_backoff,
            self._timings.first_backoff * 2 ** min(self.recent, 20),
        )
        return self._rng.uniform(full / 2, full)
