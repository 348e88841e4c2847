"""Speculation by prompt lookup: guesses an answer's next tokens from what was said before.

Where the last two or three tokens occurred earlier in prompt or answer, what followed there is
guessed to follow again (Saxena, "Prompt lookup decoding", 2023). The guesses are checked in the
same step, as more rows of it; whether that pays hangs on what such rows cost on this machine
with so many sequences, and on how often each sequence's guesses were right.
"""

from __future__ import annotations

from collections.abc import Sequence

from exclave_agent.runtimes.costs import Costs
from exclave_agent.runtimes.engine import Running

MARGIN = 1.05
"""Tokens a second must become so much more: estimates are not exact."""
RIGHT_AT_BEST = 0.95
RECHECK = 64
"""Steps after which the question whether drafts can pay at all is asked again."""
TRIAL_STEPS = 1024
"""Steps of one size in which drafts could not pay, after which one is tried all the same: what
a disturbed machine measured at load would else be believed for ever."""
FORGIVE = 0.01
PRIOR = 0.6
"""Sequences whose guesses were wrong come back to this, slowly: their text may have changed."""


class Lookup:
    """Where each pair and triple of one sequence's tokens occurred last."""

    __slots__ = ("_pairs", "_seen", "_triples")

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], int] = {}
        self._triples: dict[tuple[int, int, int], int] = {}
        self._seen = 1

    def guess(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` tokens that followed the same last tokens before; empty: none did."""
        size = len(tokens)
        # The last pair is looked up before it is learnt.
        for end in range(self._seen, size - 1):
            self._pairs[tokens[end - 1], tokens[end]] = end + 1
            if end >= 2:
                self._triples[tokens[end - 2], tokens[end - 1], tokens[end]] = end + 1
        self._seen = max(self._seen, size - 1)
        if size < 3:
            return ()
        a, b, c = tokens[-3:]
        at = self._triples.get((a, b, c)) or self._pairs.get((b, c))
        return tokens[at : at + most] if at else ()


class Drafts:
    """Decides which sequences are drafted, and how far."""

    def __init__(self, costs: Costs, limit: int) -> None:
        """`limit`: most tokens guessed for a sequence in a step; 0: none ever."""
        self._costs = costs
        self._limit = limit
        self._may: dict[int, int] = {}
        """Sequences in a step -> steps until asked again; negative: drafts cannot pay."""
        self._without: dict[int, int] = {}
        """Sequences in a step -> such steps since drafts could pay or were tried."""
        self._trial_length = limit

    def propose(self, decoding: Sequence[Running], room: int) -> dict[int, Sequence[int]]:
        """Request -> its draft, for the sequences that decode in this step; `room`: most tokens
        of all drafts together."""
        if not self._limit or not decoding:
            return {}
        if not self._can_pay(len(decoding)):
            return self._trial(decoding, room)
        found: list[tuple[float, Running, Sequence[int]]] = []
        for one in decoding:
            left = one.max_tokens - one.used - 1
            if left < 1:
                continue
            if one.lookup is None:
                one.lookup = Lookup()
            guess = one.lookup.guess(one.tokens, min(self._limit, left))
            if guess:
                found.append((one.acceptance, one, guess))
        length, chosen = self._best(found, len(decoding), room)
        for one in decoding:
            if one.lookup is not None:
                one.acceptance += FORGIVE * (PRIOR - one.acceptance)
        return {one.id: guess[:length] for _, one, guess in chosen}

    def _best(
        self, found: list[tuple[float, Running, Sequence[int]]], rows: int, room: int
    ) -> tuple[int, list[tuple[float, Running, Sequence[int]]]]:
        """(tokens a draft, who is drafted): what brings the most tokens a second."""
        found.sort(key=lambda item: item[0], reverse=True)
        best_rate = MARGIN * rows / self._costs.step(rows)
        best: tuple[int, list[tuple[float, Running, Sequence[int]]]] = (0, [])
        length = self._limit
        while length:
            gain = 0.0
            for count in range(1, len(found) + 1):
                right, _, guess = found[count - 1]
                gain += expected(right, min(length, len(guess)))
                if count * length > room:
                    break
                rate = (rows + gain) / self._seconds(rows, count, length)
                if rate > best_rate:
                    best_rate, best = rate, (length, found[:count])
            length //= 2
        return best

    def _trial(self, decoding: Sequence[Running], room: int) -> dict[int, Sequence[int]]:
        """Now and then a draft of every sequence, one length after the other, to measure again
        what such a step costs."""
        rows = len(decoding)
        self._without[rows] = self._without.get(rows, 0) + 1
        if self._without[rows] < TRIAL_STEPS:
            return {}
        length = self._trial_length
        drafts: dict[int, Sequence[int]] = {}
        if rows * length > room:
            self._without[rows] = 0
            self._trial_length = length // 2 or self._limit
            return {}
        for one in decoding:
            if one.max_tokens - one.used - 1 < length:
                return {}
            if one.lookup is None:
                one.lookup = Lookup()
            # What it should guess does not matter: any tokens cost the same.
            guess = one.lookup.guess(one.tokens, length)
            drafts[one.id] = [*guess, *one.tokens[-length:]][:length]
            if len(drafts[one.id]) < length:
                return {}
        self._without[rows] = 0
        self._may[rows] = 0
        self._trial_length = length // 2 or self._limit
        self._costs.tries(rows * (length + 1))
        return drafts

    def _seconds(self, rows: int, drafted: int, length: int) -> float:
        """Sequences with as many rows are computed together; others in a pass of their own."""
        if drafted == rows:
            return self._costs.step(rows * (length + 1))
        return self._costs.step(rows) + self._costs.step(drafted * length)

    def _can_pay(self, rows: int) -> bool:
        """Whether any draft could pay were it nearly always right; remembered for a while."""
        left = self._may.get(rows, 0)
        if abs(left) > 1:
            self._may[rows] = left - 1 if left > 0 else left + 1
            return left > 0
        able = False
        length = self._limit
        while length and not able:
            gain = rows * (1 + expected(RIGHT_AT_BEST, length))
            needed = MARGIN * rows / self._costs.step(rows)
            able = gain / self._seconds(rows, rows, length) > needed
            length //= 2
        self._may[rows] = RECHECK if able else -RECHECK
        if able:
            self._without.pop(rows, None)
        return able

    @staticmethod
    def verified(sequence: Running, drafted: int, accepted: int) -> None:
        """The model agreed with the first `accepted` of `drafted` tokens."""
        sequence.drafted += drafted
        sequence.accepted += accepted
        trials = accepted + (accepted < drafted)
        if trials:
            share = accepted / trials
            weight = 1 - 0.8**trials
            sequence.acceptance += weight * (share - sequence.acceptance)


def expected(right: float, length: int) -> float:
    """Tokens of a draft that are right in a row, each with the same chance."""
    right = min(right, 0.999)
    return right * (1 - right**length) / (1 - right)
