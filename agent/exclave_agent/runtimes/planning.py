"""Which tokens of which sequences the engine decodes in the next step."""

from __future__ import annotations

from collections.abc import Sequence

from exclave_agent.runtimes.costs import Costs
from exclave_agent.runtimes.draft import Drafts
from exclave_agent.runtimes.engine import Running, Work
from exclave_agent.runtimes.slots import Slots

LEAST_CHUNK = 16
"""Prompt tokens that a step takes even where they make it longer than it should be: fewer read
all weights for next to nothing."""
ADAPTER_STEPS = 4
"""Steps that sequences of one adapter run before those of another take their turn."""


class Planner:
    """Every decoding sequence's token, and prompts oldest first as far as the step has room.

    While an interactive sequence is in prefill, a step holds interactive work only, but for one
    step in so many that batch work is owed. While only batch work is in prefill, a step is kept
    as short as two steps of decoding: who arrives meanwhile waits no longer than that.
    """

    def __init__(
        self, slots: Slots, costs: Costs, drafts: Drafts, step_tokens: int, batch_share: float
    ) -> None:
        """`batch_share`: the part of the steps that batch work is owed, 0 to 1."""
        self._slots = slots
        self._costs = costs
        self._drafts = drafts
        self._step_tokens = step_tokens
        self._share = batch_share
        self._owed = 0.0
        self._adapter = ""
        self._turn_steps = 0
        self._turns = 0
        self._owed_turns = 0.0
        self._turn_of: dict[str, int] = {}
        """Adapter -> its last turn, of those that have sequences."""

    def plan(self) -> list[Work]:
        """The next step's work, by ascending slot; empty only when no sequence can run."""
        order = [one for one in self._slots.order if one.leader is None]
        urgent, batch, mixed = False, False, False
        first = order[0].adapter if order else ""
        for one in order:
            if not one.interactive:
                batch = True
            elif not one.used:
                urgent = True
            mixed |= one.adapter != first
        if mixed:
            order = self._one_adapter(order)
            batch = any(not one.interactive for one in order)
            urgent = any(one.interactive and not one.used for one in order)
        if urgent and batch:
            self._owed += self._share
            if self._owed >= 1:
                self._owed -= 1
                order.sort(key=lambda one: one.interactive)
            else:
                order = [one for one in order if one.interactive]
                batch = False
        return self._works(order, urgent, batch)

    def _works(self, order: list[Running], urgent: bool, batch: bool) -> list[Work]:
        decoding = [one for one in order if one.used and len(one.tokens) - one.position == 1]
        chunks: dict[int, int] = {}
        drafts: dict[int, Sequence[int]] = {}
        if len(decoding) < len(order):
            self._chunks(order, chunks, len(decoding), bounded=batch, urgent=urgent)
        else:
            drafts = self._drafts.propose(decoding, self._step_tokens - len(decoding))
        chosen = set(order) if len(order) < len(self._slots.order) else None
        works = []
        for sequence in self._slots:
            if chosen is not None and sequence not in chosen:
                continue
            at, tokens = sequence.position, sequence.tokens
            size = chunks.get(sequence.slot, 0)
            if size:
                works.append(Work(sequence, tokens[at : at + size], at, at + size == len(tokens)))
            elif len(tokens) - at == 1 and sequence.used:
                draft = drafts.get(sequence.id, ()) if drafts else ()
                works.append(Work(sequence, [tokens[at], *draft], at, True, len(draft)))
        return works

    def _chunks(
        self,
        order: list[Running],
        chunks: dict[int, int],
        rows: int,
        *,
        bounded: bool,
        urgent: bool,
    ) -> None:
        """Slot -> tokens of its prompt; sequences are served in order."""
        room = self._step_tokens - rows
        brief = room
        if bounded:
            long = 2 * self._costs.step(len(self._slots))
            brief = max(LEAST_CHUNK, self._costs.chunk(long, rows))
        for one in order:
            todo = len(one.tokens) - one.position
            if (one.used and todo == 1) or room <= 0:
                continue
            size = min(room, todo)
            if not one.interactive:
                size = min(size, brief)
                if size <= 0:
                    continue
                brief -= size
            chunks[one.slot] = size
            room -= size

    def _one_adapter(self, order: list[Running]) -> list[Running]:
        """The sequences of the adapter whose turn it is: each for a few steps, the longest
        unserved next; every second turn goes to one with interactive prefill, if there is one.
        Those that have batch work only get the share of the turns that batch work is owed."""
        there = {one.adapter for one in order}
        self._turn_steps += 1
        if self._adapter not in there or self._turn_steps >= ADAPTER_STEPS:
            pressing = {one.adapter for one in order if one.interactive and not one.used}
            self._turns += 1
            names = pressing if pressing and self._turns % 2 else self._entitled(order, there)
            self._adapter = min(names, key=lambda name: (self._turn_of.get(name, -1), name))
            self._turn_steps = 0
            self._turn_of = {name: self._turn_of.get(name, -1) for name in there}
            self._turn_of[self._adapter] = self._turns
        return [one for one in order if one.adapter == self._adapter]

    def _entitled(self, order: list[Running], there: set[str]) -> set[str]:
        """Adapters whose turn it may be now."""
        interactive = {one.adapter for one in order if one.interactive}
        if not interactive or interactive == there:
            return there
        self._owed_turns += self._share
        if self._owed_turns < 1:
            return interactive
        self._owed_turns -= 1
        return there - interactive
