"""Retry budget: a bucket of tokens that every extra attempt of a route spends.

As in Finagle's RetryBudget and Envoy's retry budgets: what retries may cost is a share of the
traffic, so that a failing target is not asked several times as often as a healthy one.
"""

from __future__ import annotations

from exclave_policy.kinds.routes import Retry


class RetryBudget:
    """One route's bucket, shared by all of its decisions. It starts full."""

    def __init__(self, rule: Retry) -> None:
        self._rule = rule
        self._tokens = float(rule.burst)

    @property
    def rule(self) -> Retry:
        """What it obeys."""
        return self._rule

    def obey(self, rule: Retry) -> None:
        """A new release may change the rule; what was spent stays spent."""
        self._rule = rule
        self._tokens = min(self._tokens, float(rule.burst))

    def deposit(self) -> None:
        """A decision began."""
        self._tokens = min(self._tokens + self._rule.ratio, float(self._rule.burst))

    def withdraw(self) -> bool:
        """Spend one token on an extra attempt; False: there is none."""
        # Shares such as 0.1 do not add up to 1 exactly.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True
