"""Measures at load what decoding costs here: a few decodes of arbitrary tokens in empty slots."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.engine import State

BUDGET = 0.3
"""Seconds for all points together: one that would go beyond it, by what is known, is left out."""
PROBE_TOKENS = 32
"""A prompt's chunk that is measured."""


class Probed(Protocol):
    """What is measured: raw decodes, without samplers."""

    slots: int
    step_tokens: int

    def try_rows(self, sequences: int, tokens: int, *, logits: bool) -> None:
        """Decode `tokens` arbitrary tokens in each of the first slots, with the logits of all
        of them or of the last one only; waits until they are there; leaves nothing."""
        ...

    def try_fill(self, tokens: int) -> None:
        """Decode `tokens` in slot 0, and leave them."""
        ...

    def save(self, slot: int) -> State: ...

    def restore(self, slot: int, state: State) -> bool: ...

    def forget(self, slot: int, keep: int = 0) -> None: ...


@dataclass
class _Stopwatch:
    monotonic: Callable[[], float]
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.monotonic()

    @property
    def spent(self) -> float:
        return self.monotonic() - self.started

    def of(self, act: Callable[[], object], times: int = 2) -> float:
        """Seconds of `act`, the better of `times` while there is time left."""
        best = float("inf")
        for _ in range(times):
            started = self.monotonic()
            act()
            best = min(best, self.monotonic() - started)
            if self.spent + best > BUDGET:
                break
        return best


def probe(engine: Probed, drafts: int, monotonic: Callable[[], float] = time.monotonic) -> Measured:
    """Costs of one row, a prompt's chunk, a copy, full steps and (`drafts` > 0) of checking
    drafts, the most telling first: on a slow machine the time ends before the list. A point that
    is not measured is interpolated, and known once a step of that size was made."""
    engine.try_rows(1, 1, logits=True)  # The first decode sets things up.
    watch = _Stopwatch(monotonic)
    rows = {1: watch.of(lambda: engine.try_rows(1, 1, logits=True))}
    chunk = max(1, min(PROBE_TOKENS, engine.step_tokens))
    engine.try_fill(chunk)
    filled = watch.of(lambda: engine.try_rows(1, chunk, logits=False), times=1)
    states: list[State] = []
    engine.try_fill(chunk)
    took = watch.of(lambda: states.append(engine.save(0)))
    back = watch.of(lambda: engine.restore(0, states[-1]))
    copy = (took + back) / 2 / max(1, states[-1].nbytes)
    engine.forget(0)
    points = [(engine.slots, 1)]
    if drafts:
        points += [(1, drafts + 1), (1, drafts // 2 + 1), (1, 2), (engine.slots, 2)]
        points += [(engine.slots // 2, 2), (engine.slots // 2, drafts // 2 + 1)]
    for sequences, tokens in points:
        size = sequences * tokens
        expected = max(rows[1], size * filled / chunk)
        if watch.spent + expected > BUDGET or not size or size > engine.step_tokens:
            continue
        if size not in rows:
            rows[size] = watch.of(
                lambda s=sequences, t=tokens: engine.try_rows(s, t, logits=True)  # type: ignore[misc]  # bound now
            )
    token = max(1e-7, (filled - rows[1]) / max(1, chunk - 1))
    return Measured(token=token, rows=rows, copy=max(copy, 1e-13))
