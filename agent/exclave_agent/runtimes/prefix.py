"""Beginnings of prompts that are computed already: who may start behind which, and a store.

What a template and the system messages say may serve everybody; what a caller wrote, and what
was answered, serves requests of the same caller only. Nobody learns from the time an answer
takes what somebody else has asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exclave_agent.runtimes.engine import Running, State

TOKEN_BYTES = 8
"""A token in a list of ours: a pointer to a shared small integer, or nearly so."""
LEAST_GAIN = 16
"""Tokens: fewer are computed again rather than copied or waited for."""


def shared(one: Sequence[int], other: Sequence[int], most: int | None = None) -> int:
    """How many tokens two sequences have in common at their beginning, at `most`."""
    low, high = 0, min(len(one), len(other))
    if most is not None:
        high = max(0, min(high, most))
    # Lists are compared at C's speed: halving finds the first difference in one pass' time.
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Kept:
    """Tokens that lie computed somewhere, and whom they may serve."""

    __slots__ = ("adapter", "caller", "saved", "shareable", "tokens", "used_at")

    def __init__(
        self,
        tokens: list[int],
        shareable: int,
        caller: str,
        adapter: str,
        used_at: float,
        saved: bool = False,
    ) -> None:
        self.tokens = tokens
        self.shareable = min(shareable, len(tokens))
        self.caller = caller
        self.adapter = adapter
        self.used_at = used_at
        self.saved = saved
        """It lies somewhere else too: losing it costs nothing."""

    def reach(self, sequence: Running) -> int:
        """Tokens behind which `sequence` may start. Its last token is always decoded: that
        gives the logits of the next."""
        if self.adapter != sequence.adapter:
            return 0
        limit = permitted(len(self.tokens), self.shareable, self.caller, sequence.caller)
        return shared(self.tokens, sequence.tokens, min(limit, len(sequence.tokens) - 1))

    def covers(self, other: Kept) -> bool:
        """Whether everything that `other` may serve is here too."""
        if self.adapter != other.adapter or len(self.tokens) < len(other.tokens):
            return False
        limit = permitted(len(self.tokens), self.shareable, self.caller, other.caller)
        size = len(other.tokens)
        return limit >= size and self.tokens[:size] == other.tokens


def permitted(length: int, shareable: int, owner: str, caller: str) -> int:
    """How much of `length` tokens of `owner` may serve `caller`."""
    return length if owner and owner == caller else min(length, shareable)


def running_reach(holder: Running, sequence: Running, length: int) -> int:
    """As `Kept.reach`, of the first `length` tokens of a sequence that is running."""
    if holder.adapter != sequence.adapter:
        return 0
    limit = permitted(length, holder.shareable, holder.caller, sequence.caller)
    return shared(holder.tokens, sequence.tokens, min(limit, len(sequence.tokens) - 1))


class Stored:
    """A state taken out of the engine, with what it holds."""

    __slots__ = ("kept", "nbytes", "state")

    def __init__(self, kept: Kept, state: State) -> None:
        self.kept = kept
        self.state = state
        self.nbytes = state.nbytes + TOKEN_BYTES * len(kept.tokens)


class PrefixStore:
    """Saved states, least recently used first to go; knows its bytes. For one thread."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes; 0: nothing is stored."""
        self.limit = limit
        self.bytes = 0
        """Held now, tokens included."""
        self._entries: list[Stored] = []
        self._odds = 0.5
        self._passed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Stored]:
        """From the least recently used on."""
        return iter(self._entries)

    def pays(self, size: int, saved: float, spent: float) -> bool:
        """Whether to store `size` bytes: a hit saves and storing costs so many seconds, and how
        often what was stored is hit is known from before."""
        if size > self.limit:
            return False
        if self._odds * saved > spent:
            return True
        # Odds that are never tried are never mended.
        self._passed += 1
        return self._passed % 32 == 0

    def add(self, kept: Kept, state: State) -> None:
        """Store; what it makes superfluous, or is the longest unused, goes."""
        for old in [one for one in self._entries if kept.covers(one.kept)]:
            self._remove(old)
        entry = Stored(kept, state)
        if entry.nbytes > self.limit:
            return
        while self.bytes + entry.nbytes > self.limit:
            self._remove(self._entries[0])
        self._entries.append(entry)
        self.bytes += entry.nbytes
        self._odds -= self._odds / 64

    def used(self, entry: Stored, now: float) -> None:
        """It served a request."""
        entry.kept.used_at = now
        if entry in self._entries:
            self._entries.remove(entry)
            self._entries.append(entry)
        self._odds += (1 - self._odds) / 16

    def drop(self, entry: Stored) -> None:
        """Forget it: the engine will not have it. It may be gone already."""
        if entry in self._entries:
            self._remove(entry)

    def expire(self, before: float) -> None:
        """Forget what was last used at `before` or earlier."""
        for entry in [one for one in self._entries if one.kept.used_at <= before]:
            self._remove(entry)

    def _remove(self, entry: Stored) -> None:
        self._entries.remove(entry)
        self.bytes -= entry.nbytes
