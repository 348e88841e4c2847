"""Which sequence sits in which of the engine's slots, and what a slot remembers of its last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exclave_agent.runtimes.engine import Engine, Running

GAP_STEPS = 3
"""Steps that a gap between slots may last before it is closed: a caller who sends the next
request at once fills it sooner, for nothing."""


class Slots:
    """The slots of one engine; used by the loop's thread alone, but for `free`.

    A slot that is given back keeps the beginning of its prompt, as far as that is shareable
    (`Running.shareable`): a later request that begins with the same tokens starts behind
    them. What a user wrote, and the answer, are forgotten at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: list[Running | None] = [None] * engine.slots
        self._kept: list[Sequence[int]] = [()] * engine.slots
        self._gap_age = 0
        self.order: list[Running] = []
        """The sequences that hold slots, oldest first."""

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._held) - len(self.order)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Running]:
        """The sequences by ascending slot."""
        return filter(None, self._held)

    def put(self, sequence: Running) -> None:
        """Give a free slot to a sequence; there must be one."""
        common, slot = self._choose(sequence.prompt)
        self._engine.forget(slot, common)
        self._kept[slot] = ()
        self._held[slot] = sequence
        self.order.append(sequence)
        sequence.slot = slot
        sequence.position = common

    def _choose(self, prompt: Sequence[int]) -> tuple[int, int]:
        """(tokens already there, slot): the slot that remembers most, the lowest of equals.

        The lowest, because the engine decodes neighbours together and gaps apart.
        """
        best, slot = -1, -1
        for at, held in enumerate(self._held):
            # The last token is always decoded: its logits are the first of the answer.
            if held is None and (common := shared(self._kept[at], prompt[:-1])) > best:
                best, slot = common, at
        return best, slot

    def drop(self, sequence: Running) -> None:
        """Take the slot back from a sequence that ended or was cancelled."""
        slot, keep = sequence.slot, min(sequence.shareable, sequence.position)
        self.order.remove(sequence)
        self._held[slot] = None
        self._kept[slot] = sequence.prompt[:keep]
        self._engine.forget(slot, keep)
        sequence.sampler.close()

    def close_gap(self) -> None:
        """Move the sequence in the highest slot into a gap that nobody has filled for a while."""
        free = self._held.index(None) if self.free else len(self._held)
        highest = max(self.order, key=lambda one: one.slot)
        if free > highest.slot:
            self._gap_age = 0
            return
        self._gap_age += 1
        if self._gap_age > GAP_STEPS:
            self._engine.move(highest.slot, free)
            self._held[highest.slot], self._held[free] = None, highest
            self._kept[free] = ()
            highest.slot = free


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
