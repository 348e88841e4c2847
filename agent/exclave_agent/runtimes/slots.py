"""Which sequence sits in which of the engine's slots, and what lies computed where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from exclave_agent.runtimes.costs import Costs
from exclave_agent.runtimes.engine import Engine, Running, State
from exclave_agent.runtimes.parking import Parking
from exclave_agent.runtimes.prefix import LEAST_GAIN, Kept, PrefixStore, Stored, running_reach

GAP_STEPS = 3
"""Steps that a gap between slots may last before it is closed: a caller who sends the next
request at once fills it sooner, for nothing."""

FORGOTTEN = 0.05
"""What a token that a slot would forget counts, against one that need not be computed: most are
never asked for again, and the store may have them."""

Source = tuple[int, "int | Stored | None"]
"""(tokens that lie computed there, the slot or the stored state that holds them)."""


class Slots:
    """The slots of one engine; used by the loop's thread alone, but for `free`.

    A slot that is given back keeps what may serve a later request: the shareable beginning
    (`Running.shareable`) for everybody, the rest for requests of the same caller. A new one
    starts behind the longest beginning that it may use, in place or by a copy, from a free slot,
    a running one or the store; or it waits for a leader that computes the same tokens now.
    """

    def __init__(
        self,
        engine: Engine,
        costs: Costs,
        store: PrefixStore,
        parking: Parking,
        *,
        prefix_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._costs = costs
        self._store = store
        self._parking = parking
        self._seconds = prefix_seconds
        self._monotonic = monotonic
        self._held: list[Running | None] = [None] * engine.slots
        self._kept: list[Kept | None] = [None] * engine.slots
        self._gap_age = 0
        self._followers = 0
        self._next_expiry = float("inf")
        self.order: list[Running] = []
        """The sequences that hold slots, oldest first."""
        self.hits = 0
        self.hit_tokens = 0
        self.preemptions = 0

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._held) - len(self.order)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Running]:
        """The sequences by ascending slot."""
        return filter(None, self._held)

    # --- in ------------------------------------------------------------------------------

    def put(self, sequence: Running) -> None:
        """Give a free slot to a sequence; there must be one."""
        now = self._monotonic()
        first = sequence.started < 0
        if first:
            sequence.started = now
        common, slot = self._in_place(sequence)
        state = self._parking.take(sequence.id)
        if state is not None and common < sequence.position:
            self._clear(slot, 0)
            common = 0
            if self._restored(slot, state):
                self._hold(slot, sequence, sequence.position)
                return
        found, source = self._elsewhere(sequence, slot)
        if found and self._copy_pays(found - common, found):
            found = self._bring(source, slot, found, now)
        else:
            found = common
            self._clear(slot, common)
        self._hold(slot, sequence, found)
        if first:
            self._hit(sequence, 0)
        self._follow(sequence)

    def _hold(self, slot: int, sequence: Running, position: int) -> None:
        self._kept[slot] = None
        self._held[slot] = sequence
        self.order.append(sequence)
        sequence.slot = slot
        sequence.position = position

    def _hit(self, sequence: Running, before: int) -> None:
        """Its prompt need not be computed up to where it is; it was at `before`."""
        if before < LEAST_GAIN <= sequence.position:
            self.hits += 1
        self.hit_tokens += sequence.position - before
        sequence.cached = sequence.position

    def _in_place(self, sequence: Running) -> tuple[int, int]:
        """(tokens already there, slot): the free slot that remembers most of the sequence, less
        what it would forget for it; the lowest of equals.

        The lowest, because the engine decodes neighbours together and gaps apart.
        """
        best, common, slot = 0.0, 0, -1
        for at, held in enumerate(self._held):
            if held is not None:
                continue
            kept = self._kept[at]
            reach = kept.reach(sequence) if kept is not None else 0
            lost = len(kept.tokens) - reach if kept is not None else 0
            worth = reach - FORGOTTEN * lost
            if slot < 0 or worth > best:
                best, common, slot = worth, reach, at
        return common, slot

    def _elsewhere(self, sequence: Running, target: int) -> Source:
        """The longest beginning that lies computed in another slot or in the store."""
        best: Source = (0, None)
        if not self._engine.reuses:
            return best
        for at, held in enumerate(self._held):
            kept = self._kept[at]
            if held is not None and held is not sequence:
                reach = running_reach(held, sequence, held.position)
            elif kept is not None and at != target:
                reach = kept.reach(sequence)
            else:
                continue
            if reach > best[0]:
                best = (reach, at)
        for entry in self._store:
            if (reach := entry.kept.reach(sequence)) > best[0]:
                best = (reach, entry)
        return best

    def _copy_pays(self, gained: int, copied: int) -> bool:
        if gained < LEAST_GAIN:
            return False
        return self._costs.copy(2 * self._engine.state_bytes(copied)) < self._costs.prefill(gained)

    def _bring(self, source: int | Stored | None, slot: int, tokens: int, now: float) -> int:
        """Fill a slot from where the tokens lie; returns how many are there now."""
        # Looked up before anything is moved into the store, which may push this very entry out.
        self._clear(slot, 0)
        if isinstance(source, Stored):
            if not self._restored(slot, source.state):
                self._store.drop(source)
                return 0
            self._store.used(source, now)
        elif source is not None:
            if (kept := self._kept[source]) is not None:
                kept.used_at = now
            self._engine.copy(source, slot, tokens)
        self._engine.forget(slot, tokens)
        return tokens

    # --- leaders and followers --------------------------------------------------------------

    def _follow(self, sequence: Running) -> None:
        """Wait for a sequence that is computing tokens which this one needs too, if that is
        cheaper than to compute them twice."""
        if not self._engine.reuses:
            return
        best, leader = sequence.position, None
        for one in self.order:
            # Batch prefill stands back while others are in prefill: nobody urgent waits for it.
            if one is sequence or one.leader is not None or one.interactive < sequence.interactive:
                continue
            reach = running_reach(one, sequence, len(one.tokens) - 1)
            if reach > best and reach > one.position:
                best, leader = reach, one
        if leader is not None and self._copy_pays(best - sequence.position, best):
            sequence.leader, sequence.lead_to = leader, best
            self._followers += 1

    def serve_followers(self) -> None:
        """Copy to those whose leader has come far enough; others look for another if it left."""
        if not self._followers:
            return
        for sequence in list(self.order):
            leader = sequence.leader
            if leader is None:
                continue
            if leader.slot >= 0 and leader.position < sequence.lead_to:
                continue
            self._unfollow(sequence)
            before = sequence.position
            found, source = self._elsewhere(sequence, sequence.slot)
            if self._copy_pays(found - before, found):
                now = self._monotonic()
                sequence.position = self._bring(source, sequence.slot, found, now)
                if sequence.preemptions == 0 and sequence.position > before:
                    self._hit(sequence, before)
            self._follow(sequence)

    def _unfollow(self, sequence: Running) -> None:
        if sequence.leader is not None:
            sequence.leader = None
            self._followers -= 1

    # --- out -----------------------------------------------------------------------------

    def drop(self, sequence: Running) -> None:
        """Take the slot back from a sequence that ended or was cancelled."""
        self._leave(sequence, saved=False)
        sequence.sampler.close()

    def preempt(self, sequence: Running) -> None:
        """Take the slot from a sequence that will go on later: its state is parked, or dropped
        where computing it again is cheaper or there is no room."""
        size = self._engine.state_bytes(sequence.position)
        parked = False
        cheaper = self._costs.copy(2 * size) < self._costs.prefill(sequence.position)
        if sequence.position and cheaper and self._parking.fits(size):
            self._engine.forget(sequence.slot, sequence.position)
            started = self._monotonic()
            state = self._engine.save(sequence.slot)
            self._costs.saw_copy(self._monotonic() - started, state.nbytes)
            parked = self._parking.put(sequence.id, state)
        position = sequence.position
        self._leave(sequence, saved=parked)
        sequence.position = position if parked else 0
        sequence.preemptions += 1
        self.preemptions += 1

    def _leave(self, sequence: Running, *, saved: bool) -> None:
        slot, keep = sequence.slot, 0
        self._unfollow(sequence)
        if self._engine.reuses:
            keep = sequence.position
            if not sequence.caller:
                keep = min(keep, sequence.shareable)
        self.order.remove(sequence)
        self._held[slot] = None
        self._engine.forget(slot, keep)
        if keep:
            now = self._monotonic()
            self._kept[slot] = Kept(
                sequence.tokens[:keep],
                sequence.shareable,
                sequence.caller,
                sequence.adapter,
                now,
                saved,
            )
            self._next_expiry = min(self._next_expiry, now + self._seconds)
        sequence.slot = -1

    def _clear(self, slot: int, keep: int) -> None:
        """Forget all but the first `keep` tokens of a free slot; what is worth it goes to the
        store first."""
        kept, self._kept[slot] = self._kept[slot], None
        if kept is not None and not kept.saved and self._store.limit:
            self._store_away(slot, kept, keep)
        self._engine.forget(slot, keep)

    def _store_away(self, slot: int, kept: Kept, keep: int) -> None:
        size = len(kept.tokens)
        nbytes = self._engine.state_bytes(size)
        if size - keep < LEAST_GAIN or self._covered(kept):
            return
        if self._store.pays(nbytes, self._costs.prefill(size), self._costs.copy(2 * nbytes)):
            started = self._monotonic()
            state = self._engine.save(slot)
            self._costs.saw_copy(self._monotonic() - started, state.nbytes)
            self._store.add(kept, state)
            self._next_expiry = min(self._next_expiry, kept.used_at + self._seconds)

    def _covered(self, kept: Kept) -> bool:
        if any(other is not None and other.covers(kept) for other in self._kept):
            return True
        return any(entry.kept.covers(kept) for entry in self._store)

    def _restored(self, slot: int, state: State) -> bool:
        started = self._monotonic()
        done = self._engine.restore(slot, state)
        self._costs.saw_copy(self._monotonic() - started, state.nbytes)
        return done

    # --- upkeep ----------------------------------------------------------------------------

    def expire(self, now: float) -> float | None:
        """Forget what nobody has used for `prefix_seconds`; returns the seconds until there may
        be more to forget, None: nothing is kept."""
        if now >= self._next_expiry:
            before = now - self._seconds
            for slot, kept in enumerate(self._kept):
                if kept is not None and kept.used_at <= before:
                    self._kept[slot] = None
                    self._engine.forget(slot)
            self._store.expire(before)
            left = [kept.used_at for kept in self._kept if kept is not None]
            left += [entry.kept.used_at for entry in self._store]
            self._next_expiry = min(left, default=float("inf")) + self._seconds
        return None if self._next_expiry == float("inf") else max(0.0, self._next_expiry - now)

    def close_gap(self) -> None:
        """Move the sequence in the highest slot into a gap that nobody has filled for a while."""
        free = self._held.index(None) if self.free else len(self._held)
        highest = max(self.order, key=lambda one: one.slot)
        if free > highest.slot:
            self._gap_age = 0
            return
        self._gap_age += 1
        if self._gap_age > GAP_STEPS:
            self._clear(free, 0)
            self._engine.move(highest.slot, free)
            self._held[highest.slot], self._held[free] = None, highest
            highest.slot = free
