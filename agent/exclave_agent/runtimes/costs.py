"""What decoding costs on this machine, measured: steps, prompt tokens, copies of states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SMOOTHING = 0.1
"""Weight of one observation."""
TRUST = 0.5
"""Weight of a step that was made to learn its cost, when it was dearer than expected."""
OUTLIER = 4.0
"""A step may count as no more than this many times what was expected: a machine that was put
to sleep says nothing about its speed."""
LARGE_CHUNK = 128
"""Prompt tokens from which on more of them make a token hardly cheaper."""
FEW_TOKENS = 8
"""Prompt tokens below which a step says too little about their cost."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured while the model was loaded."""

    token: float = 0.002
    """Seconds of one prompt token within a large chunk."""
    rows: Mapping[int, float] = field(default_factory=lambda: {1: 0.02})
    """Rows with logits in a step (sequences, or their drafts) -> seconds of it."""
    copy: float = 1e-9
    """Seconds a byte to take a sequence's state out of the engine, or to put it back."""


class Costs:
    """Estimates in seconds, kept true by what each step took; for the loop's thread alone.

    The shape of the curve (how much dearer nine rows are than one) changes slowly, the speed of
    a shared machine from second to second: so both are smoothed apart, and points of the curve
    that are seldom visited follow the machine's speed too.
    """

    def __init__(self, measured: Measured) -> None:
        self._rows = dict(measured.rows)
        self._token = measured.token
        self._scale = 1.0
        self._copy = measured.copy
        self._tried: set[int] = set()
        self.fastest_token: float | None = None
        """Seconds below which no prompt token is computed: half of what it took in the best
        large chunk ever seen; None: there was none yet."""

    def step(self, rows: int) -> float:
        """Of a step that decodes `rows` tokens, each with its logits, and no prompt."""
        return self._shape(rows) * self._scale

    def _shape(self, rows: int) -> float:
        known = self._rows
        if rows in known:
            return known[rows]
        below = max((at for at in known if at < rows), default=0)
        above = min((at for at in known if at > rows), default=0)
        if not below:
            return known[above]
        if not above:
            # No step costs more a row than its first rows did.
            return known[below] + (rows - below) * self._slope(below)
        share = (rows - below) / (above - below)
        return known[below] + share * (known[above] - known[below])

    def _slope(self, last: int) -> float:
        before = max((at for at in self._rows if at < last), default=0)
        if not before:
            return self._token
        return max(0.0, (self._rows[last] - self._rows[before]) / (last - before))

    @property
    def token(self) -> float:
        """Of one prompt token."""
        return self._token * self._scale

    def prefill(self, tokens: int) -> float:
        """Of so many prompt tokens."""
        return tokens * self._token * self._scale

    def copy(self, size: int) -> float:
        """Of taking out, or putting back, a state of `size` bytes."""
        return size * self._copy

    def chunk(self, seconds: float, rows: int) -> int:
        """Prompt tokens that a step with `rows` others may hold, not to last longer."""
        return int(max(0.0, seconds - self.step(rows)) / max(self.token, 1e-9))

    def saw_step(self, seconds: float, rows: int, prompt: int) -> None:
        """A step took so long."""
        if prompt == 0 and rows in self._tried:
            # Says nothing of the machine's speed at this moment, but much of the curve's point.
            self._tried.discard(rows)
            self._rows[rows] = shape = self._shape(rows)
            seen = min(seconds / self._scale, OUTLIER * shape)
            # Other work on the machine makes a step dearer, never cheaper.
            self._rows[rows] += (1.0 if seen < shape else TRUST) * (seen - shape)
        elif prompt == 0 and rows > 0:
            expected = self.step(rows)
            seconds = min(seconds, OUTLIER * expected)
            self._scale += SMOOTHING * (seconds / self._shape(rows) - self._scale)
            shape = self._rows.setdefault(rows, self._shape(rows))
            self._rows[rows] += SMOOTHING / 4 * (seconds / self._scale - shape)
        elif prompt >= FEW_TOKENS:
            each = max(1e-9, (seconds - (self.step(rows) if rows else 0.0)) / prompt)
            if prompt >= LARGE_CHUNK:
                best = seconds / prompt / 2
                if self.fastest_token is None or best < self.fastest_token:
                    self.fastest_token = best
            each = min(each, OUTLIER * self.token)
            self._token += SMOOTHING * (each / self._scale - self._token)

    def tries(self, rows: int) -> None:
        """The next step of so many rows is made to learn what it costs."""
        self._tried.add(rows)

    def saw_copy(self, seconds: float, size: int) -> None:
        """A state of `size` bytes was taken out or put back."""
        if size > 0:
            self._copy += SMOOTHING * (min(seconds / size, OUTLIER * self._copy) - self._copy)
