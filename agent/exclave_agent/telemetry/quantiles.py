"""Exact quantiles of what was seen lately, for people who look at one agent without a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW = 300.0
"""Seconds that an observation counts."""
MOST = 1024
"""Observations kept; older ones go first."""
QUANTILES = (0.5, 0.95, 0.99)


class Quantiles:
    """A sliding window of one figure. Not thread-safe: the event loop's."""

    __slots__ = ("_monotonic", "_seen")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST)

    def observe(self, value: float) -> None:
        """One more."""
        self._seen.append((self._monotonic(), value))

    def read(self) -> dict[float, float]:
        """Quantile -> value by the nearest rank; empty when the window is."""
        oldest = self._monotonic() - WINDOW
        while self._seen and self._seen[0][0] < oldest:
            self._seen.popleft()
        values = sorted(value for _, value in self._seen)
        if not values:
            return {}
        # Nearest rank: the smallest value that at least this share does not exceed.
        return {q: values[max(0, -int(-q * len(values) // 1) - 1)] for q in QUANTILES}
