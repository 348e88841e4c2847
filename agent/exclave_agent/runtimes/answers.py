"""From sampled tokens to what the agent is told: text, the end of an answer, its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.draft import Drafts
from exclave_agent.runtimes.engine import NO_TOKEN, Engine, Refused, Running, Work
from exclave_agent.runtimes.fairness import ANSWER_WEIGHT, Fairness

Taken = tuple[list[frames.Text], list[frames.Extra], list[frames.Ended], list[frames.Failed]]


class Answers:
    """Takes each step's tokens; for the loop's thread alone."""

    def __init__(self, engine: Engine, fairness: Fairness, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._fairness = fairness
        self._monotonic = monotonic
        self.typical = {True: 1.0, False: 1.0}
        """Interactive or not -> seconds that a request holds its slot, smoothed."""
        self.drafted = 0
        self.accepted = 0

    def take(self, plan: Sequence[Work], now: float) -> Taken:
        """Move the plan's sequences on; those that have ended are marked so, and still hold
        their slots."""
        texts: list[frames.Text] = []
        extras: list[frames.Extra] = []
        ended: list[frames.Ended] = []
        failed: list[frames.Failed] = []
        for work in plan:
            sequence = work.sequence
            sequence.position += len(work.tokens) - work.draft
            if not work.sample:
                continue
            if sequence.first_at < 0:
                sequence.first_at = now
            before = len(sequence.tokens)
            text, reason = self._advance(sequence, work)
            if text:
                texts.append(frames.Text(sequence.id, text))
            if not sequence.output.plain:
                logprobs, calls = sequence.output.extras()
                if logprobs or calls:
                    extras.append(frames.Extra(sequence.id, logprobs, calls))
            if work.draft:
                self._settle(sequence, work, len(sequence.tokens) - before)
            if reason == NONE_ALLOWED:
                failed.append(_none_allowed(sequence))
            elif reason:
                ended.append(self._end(sequence, reason, now))
            sequence.ended = bool(reason)
        return texts, extras, ended, failed

    def _advance(self, sequence: Running, work: Work) -> tuple[str, str]:
        """Take the sampled tokens: their text, and why the sequence ends ("": it does not)."""
        output, text = sequence.output, ""
        for at, token in enumerate(work.sampled):
            if token == NO_TOKEN:
                return text, NONE_ALLOWED
            if self._engine.is_end(token):
                return text + output.finish(), "stop"
            sequence.used += 1
            sequence.tokens.append(token)
            self._fairness.charge(sequence.caller, ANSWER_WEIGHT)
            logprob = work.logprobs[at] if work.logprobs else None
            text += output.feed(self._engine.piece(token), logprob)
            if output.stopped:
                return text, "stop"
            if sequence.used >= sequence.max_tokens:
                return text + output.finish(), "length"
        return text, ""

    def _settle(self, sequence: Running, work: Work, taken: int) -> None:
        """Count the guesses; those that were wrong leave the engine's cache."""
        right = len(work.sampled) - 1
        self.drafted += work.draft
        self.accepted += right
        Drafts.verified(sequence, work.draft, right)
        # The last token taken has not been decoded, those before it have.
        sequence.position += max(0, taken - 1)
        if right < work.draft:
            self._engine.forget(sequence.slot, sequence.position)

    def _end(self, sequence: Running, natural: str, now: float) -> frames.Ended:
        held = now - sequence.started
        typical = self.typical[sequence.interactive]
        self.typical[sequence.interactive] += 0.2 * (held - typical)
        return frames.Ended(
            sequence.id,
            sequence.output.reason(natural),
            len(sequence.prompt),
            sequence.used,
            cached_tokens=sequence.cached,
            queued_us=_us(sequence.started - sequence.arrived),
            prefill_us=_us(sequence.first_at - sequence.started),
            decode_us=_us(now - sequence.first_at),
            preemptions=sequence.preemptions,
            drafted=sequence.drafted,
            accepted=sequence.accepted,
        )


NONE_ALLOWED = "none allowed"
"""Why a sequence ends whose constraint leaves no token."""


def _none_allowed(sequence: Running) -> frames.Failed:
    param = sequence.constrained
    name = "json_schema" if param == "response_format" else param
    return Refused(
        "output_invalid",
        f"{name}: no token can continue an answer that it allows",
        param=param,
    ).frame(sequence.id)


def _us(seconds: float) -> int:
    return max(0, int(seconds * 1e6))
