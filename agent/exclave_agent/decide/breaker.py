"""Circuit breaker: gives a failing target a rest, and lets one probe at a time find out whether
it is well again. Pure: the time is an argument (`Clock.monotonic`, seconds).

States as in M. Nygard, "Release It!" (2nd ed., ch. 5): closed, open, half-open.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exclave_agent.ports import BreakerState
from exclave_policy.kinds.routes import BreakerRule

MAX_OUTCOMES = 512
"""Outcomes of a window that are remembered; the oldest go first."""

Fault: TypeAlias = Literal["errors", "invalid"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    at: float
    fault: Fault | Literal[""]
    latency: float | None
    """Seconds until the first piece of the answer; None: there was none."""


class Permit:
    """Leave to ask the target once. MUST be ended exactly once; more calls change nothing."""

    __slots__ = ("_breaker", "_ended", "_probe", "_round")

    def __init__(self, breaker: Breaker, probe: int, opened: int) -> None:
        """`probe`: its number; 0: it is none. `opened`: how often the breaker had opened."""
        self._breaker = breaker
        self._round = opened
        self._ended = False
        self._probe = probe

    @property
    def probe(self) -> bool:
        """Whether it finds out if the target is well again."""
        return self._probe > 0

    def succeeded(self, now: float, latency: float) -> None:
        """It answered; `latency` is seconds until the first piece."""
        self._end(_Outcome(now, "", latency))

    def failed(self, now: float, fault: Fault, latency: float | None = None) -> None:
        """It failed, or its answer was not valid: the target's fault."""
        self._end(_Outcome(now, fault, latency))

    def void(self) -> None:
        """It says nothing about the target: a wrong request, a full queue. A probe that ends so
        makes room for the next one."""
        self._end(None)

    def abandoned(self, now: float, waited: float) -> None:
        """Nobody waited for it any longer: the caller went, or another target was quicker.

        `waited`: seconds in which nothing came. Above the rule's limit the target is slow, however
        long it would have taken: if only answers counted, the slowest ones never would.
        """
        slow = self._breaker.too_slow(waited)
        self._end(_Outcome(now, "", waited) if slow else None)

    def _end(self, outcome: _Outcome | None) -> None:
        if not self._ended:
            self._ended = True
            self._breaker._ended(self._probe, self._round, outcome)


class Breaker:
    """One target's breaker. Without a rule nothing is remembered, and it never opens."""

    def __init__(self, rule: BreakerRule | None) -> None:
        self._rule = rule
        self._outcomes: deque[_Outcome] = deque()
        self._faults: Counter[str] = Counter()
        self._open_until: float | None = None
        self._probe: int | None = None
        """The number of the probe under way."""
        self._probe_until = 0.0
        """Then another one may go: a probe may take for ever, as when its caller never reads."""
        self._probes = 0
        self._opened = 0
        """How often it opened: an outcome of before says nothing of a target that rested."""
        self.reason = ""
        """What opened it: "errors", "latency", "invalid"; "" while closed."""

    def obey(self, rule: BreakerRule | None) -> None:
        """A new release may change the rule; what is known of the target stays."""
        self._rule = rule
        if rule is None:
            self._close()

    def state(self, now: float) -> BreakerState:
        """Where it stands."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def opens_in(self, now: float) -> float:
        """Seconds until a probe is let through; 0 unless open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def admits(self, now: float) -> bool:
        """Whether `acquire` would give a permit."""
        if self._open_until is None:
            return True
        if now < self._open_until:
            return False
        return self._probe is None or now >= self._probe_until

    def acquire(self, now: float) -> Permit | None:
        """Leave to ask the target, or None while it rests."""
        if not self.admits(now):
            return None
        if self._open_until is None or self._rule is None:
            return Permit(self, 0, self._opened)
        self._probes += 1
        self._probe = self._probes
        self._probe_until = now + self._rule.open_seconds
        return Permit(self, self._probe, self._opened)

    def latency(self, now: float) -> float | None:
        """The 95th percentile of the window's latencies, seconds; None: too few are known."""
        rule = self._rule
        if rule is None:
            return None
        self._forget(now - rule.window_seconds)
        known = sorted(each.latency for each in self._outcomes if each.latency is not None)
        if len(known) < rule.min_requests:
            return None
        return known[-(-len(known) * 95 // 100) - 1]  # nearest rank

    def _ended(self, probe: int, opened: int, outcome: _Outcome | None) -> None:
        if probe and probe == self._probe:
            self._probe = None
        if outcome is None or self._rule is None or opened != self._opened:
            return
        if probe and self._open_until is not None:
            reason = self._bad(outcome)
            if reason:
                self._open(outcome.at, reason)
            else:
                self._close()
                self._remember(outcome)
            return
        if self._open_until is None:
            self._remember(outcome)
            reason = self._judge(outcome.at)
            if reason:
                self._open(outcome.at, reason)

    def too_slow(self, latency: float) -> bool:
        """Whether the rule limits latency (seconds), and this is above it."""
        limit = None if self._rule is None else self._rule.latency_ms
        return limit is not None and latency * 1e3 > limit

    def _bad(self, outcome: _Outcome) -> str:
        """What is wrong with a probe's outcome."""
        if outcome.fault:
            return outcome.fault
        slow = outcome.latency is not None and self.too_slow(outcome.latency)
        return "latency" if slow else ""

    def _judge(self, now: float) -> str:
        """What of the rule the window breaks, if anything."""
        rule = self._rule
        if rule is None:
            return ""
        self._forget(now - rule.window_seconds)
        count = len(self._outcomes)
        if count < rule.min_requests:
            return ""
        # A rate of nought is broken by the first fault, not by none.
        errors, invalid = self._faults["errors"], self._faults["invalid"]
        if rule.error_rate is not None and errors and errors / count >= rule.error_rate:
            return "errors"
        if rule.invalid_rate is not None and invalid and invalid / count >= rule.invalid_rate:
            return "invalid"
        if rule.latency_ms is not None:
            p95 = self.latency(now)
            if p95 is not None and p95 * 1e3 > rule.latency_ms:
                return "latency"
        return ""

    def _remember(self, outcome: _Outcome) -> None:
        self._outcomes.append(outcome)
        self._faults[outcome.fault] += 1
        if len(self._outcomes) > MAX_OUTCOMES:
            self._faults[self._outcomes.popleft().fault] -= 1

    def _forget(self, before: float) -> None:
        while self._outcomes and self._outcomes[0].at <= before:
            self._faults[self._outcomes.popleft().fault] -= 1

    def _open(self, now: float, reason: str) -> None:
        assert self._rule is not None, "without a rule nothing is judged"
        self._opened += 1
        self._probe = None
        self._open_until = now + self._rule.open_seconds
        self.reason = reason
        self._clear()

    def _close(self) -> None:
        self._open_until = None
        self._probe = None
        self.reason = ""
        self._clear()

    def _clear(self) -> None:
        self._outcomes.clear()
        self._faults.clear()
