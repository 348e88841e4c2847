"""Replays recorded decisions under another policy, and tells what would change: as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Past:
    """One recorded decision."""

    allowed: bool
    rule: str
    recorded: Recorded | None
    """None: it was erased, or is from before the record kept it."""


@dataclass(slots=True)
class Replayed:
    """What would change: numbers and rule ids, nothing of the data."""

    same: int = 0
    now_allowed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By the rule that denied and the one that would allow."""
    now_denied: Counter[tuple[str, str]] = field(default_factory=Counter)
    other_rule: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Allowed or denied as before, by another rule."""
    not_kept: int = 0
    """Nothing to replay is kept of them."""
    not_seen: int = 0
    """A condition sees a name that nobody found out then."""

    @property
    def total(self) -> int:
        """All decisions that were looked at."""
        return self.same + self.changed + self.not_kept + self.not_seen

    @property
    def changed(self) -> int:
        """Those that would not be as they were."""
        counters = (self.now_allowed, self.now_denied, self.other_rule)
        return sum(counter.total() for counter in counters)

    def as_json(self) -> dict[str, Any]:
        """For programs; it may leave the machine."""

        def rows(counter: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
            return [
                {"before": before, "after": after, "decisions": number}
                for (before, after), number in sorted(counter.items())
            ]

        return {
            "total": self.total,
            "same": self.same,
            "now_allowed": rows(self.now_allowed),
            "now_denied": rows(self.now_denied),
            "other_rule": rows(self.other_rule),
            "not_kept": self.not_kept,
            "not_seen": self.not_seen,
        }


def replay(policy: CompiledPolicy, past: Iterable[Past]) -> Replayed:
    """Ask `policy` what was asked then. Holds one decision at a time."""
    found = Replayed()
    for each in past:
        if each.recorded is None:
            found.not_kept += 1
        elif not policy.names <= each.recorded.names.keys():
            found.not_seen += 1
        else:
            _compare(found, each, policy, each.recorded)
    return found


def _compare(found: Replayed, past: Past, policy: CompiledPolicy, recorded: Recorded) -> None:
    now = policy.evaluate(recorded.request())
    if now.allowed and not past.allowed:
        found.now_allowed[past.rule, now.rule] += 1
    elif past.allowed and not now.allowed:
        found.now_denied[past.rule, now.rule] += 1
    elif now.rule != past.rule:
        found.other_rule[past.rule, now.rule] += 1
    else:
        found.same += 1
