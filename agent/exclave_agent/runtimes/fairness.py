"""Who is next: two classes, and within each the caller who was served the fewest tokens.

The counters are those of the Virtual Token Counter (Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024): weighted tokens a caller was served, lifted to the least of the
active callers when one comes back, so that nobody saves up time in which nothing was asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from exclave_agent.runtimes.engine import Running

PROMPT_WEIGHT = 1.0
ANSWER_WEIGHT = 2.0
"""A token of the answer takes a whole row of a step, one of the prompt a part of a chunk."""
CACHED_WEIGHT = 0.1
MOST_CALLERS = 4096
"""Counters kept; beyond it, those of callers who ask nothing now are forgotten, oldest first."""


class Fairness:
    """Token counters of callers. Not safe for use by two threads."""

    def __init__(self, most: int = MOST_CALLERS) -> None:
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}
        self._most = most
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._served)

    def enter(self, caller: str) -> None:
        """A request of this caller arrives."""
        if caller not in self._active:
            if self._active:
                self._floor = max(self._floor, min(self._served[one] for one in self._active))
            # Taken out and put back: the order is that of the last arrival.
            served = self._served.pop(caller, 0.0)
            self._served[caller] = max(served, self._floor)
            self._active[caller] = 0
            self._shrink()
        self._active[caller] += 1

    def leave(self, caller: str) -> None:
        """A request of this caller has ended."""
        self._active[caller] -= 1
        if not self._active[caller]:
            del self._active[caller]
            if not self._active:
                # Who comes next starts level with the last who left.
                self._floor = max(self._floor, self._served[caller])

    def charge(self, caller: str, weighted: float) -> None:
        """Count tokens served."""
        self._served[caller] += weighted

    def served(self, caller: str) -> float:
        """Weighted tokens of an active caller."""
        return self._served[caller]

    def _shrink(self) -> None:
        if len(self._served) > self._most:
            idle = [one for one in self._served if one not in self._active]
            for caller in idle[: len(self._served) - self._most]:
                del self._served[caller]


class FairQueue:
    """Requests that wait for a slot: `interactive` before `batch`, the least served caller's
    oldest within each. Not safe for use by two threads."""

    def __init__(self, fairness: Fairness) -> None:
        self._fairness = fairness
        self._classes: dict[bool, dict[str, deque[Running]]] = {True: {}, False: {}}
        self._sizes = {True: 0, False: 0}

    def __len__(self) -> int:
        return self._sizes[True] + self._sizes[False]

    def __iter__(self) -> Iterator[Running]:
        for callers in self._classes.values():
            for waiting in callers.values():
                yield from waiting

    def size(self, interactive: bool) -> int:
        """How many of one class wait."""
        return self._sizes[interactive]

    def push(self, sequence: Running, *, first: bool = False) -> None:
        """Queue it behind its caller's others of the class; `first`: before them, since it had
        its turn and gave it up."""
        waiting = self._classes[sequence.interactive].setdefault(sequence.caller, deque())
        if first:
            waiting.appendleft(sequence)
        else:
            waiting.append(sequence)
        self._sizes[sequence.interactive] += 1

    def pop(self, *, batch_first: bool = False) -> Running:
        """Who is next. Raises: IndexError when nobody waits."""
        kind = self._sizes[True] > 0 and not (batch_first and self._sizes[False] > 0)
        callers = self._classes[kind]
        if not callers:
            raise IndexError("nobody waits")
        # Of equals the one who came first: dicts keep the order.
        caller = min(callers, key=self._fairness.served)
        sequence = callers[caller][0]
        self._take(sequence, 0)
        return sequence

    def remove(self, sequence: Running) -> None:
        """Take it out. Raises: ValueError when it does not wait."""
        waiting = self._classes[sequence.interactive].get(sequence.caller, deque())
        self._take(sequence, waiting.index(sequence))

    def _take(self, sequence: Running, at: int) -> None:
        callers = self._classes[sequence.interactive]
        waiting = callers[sequence.caller]
        del waiting[at]
        if not waiting:
            del callers[sequence.caller]
        self._sizes[sequence.interactive] -= 1
