"""Whether one condition holds wherever another one does, for as many pairs as a pack has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exclave_policy.conditions import Condition
from exclave_policy.schema import Value
from exclave_policy.workbench.domain import domain_of, holds

MAX_TRIED = 20_000
"""Most combinations that are tried in all: what is left is not told."""
_EXAMPLES = 24
"""How many points are kept of each condition."""

Point = Mapping[str, Value]


class Implications:
    """Remembers what it has found out: a pack repeats its conditions.

    A pair costs nothing where one kept point of each, agreeing on the names that both see, shows
    that the one holds and the other does not. Only what is left is tried out.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], bool] = {}
        self._examples: dict[tuple[str, bool], Sequence[Point]] = {}
        self._tried = 0

    def hold(self, when: Condition | None, denying: Condition | None) -> bool:
        """Whether `denying` holds (or fails, which denies) wherever `when` holds; None: always.
        False also where it cannot be told."""
        if denying is None or (when is not None and when.source == denying.source):
            return True
        key = ("" if when is None else when.source, denying.source)
        if key not in self._known:
            self._known[key] = self._find_out(when, denying)
        return self._known[key]

    def _find_out(self, when: Condition | None, denying: Condition) -> bool:
        against = self._points(denying, False)
        if when is None:
            return not against and self._exhausted(denying)
        if any(_agree(a, b) for a in self._points(when, True) for b in against):
            return False
        domain = domain_of(when, denying)
        if not domain.complete or self._tried + domain.size > MAX_TRIED:
            return False
        self._tried += domain.size
        return all(
            holds(denying, point) is not False for point in domain.points() if holds(when, point)
        )

    def _points(self, condition: Condition, wanted: bool) -> Sequence[Point]:
        """Some at which a condition holds, or does not."""
        key = (condition.source, wanted)
        if key not in self._examples:
            domain = domain_of(condition)
            found: dict[bool, list[Point]] = {True: [], False: []}
            if domain.complete:
                for point in domain.points():
                    value = holds(condition, point)
                    if value is not None and len(found[value]) < _EXAMPLES:
                        found[value].append(point)
            for value, points in found.items():
                self._examples[condition.source, value] = points
        return self._examples[key]

    def _exhausted(self, condition: Condition) -> bool:
        return domain_of(condition).complete


def _agree(one: Point, other: Point) -> bool:
    return all(other[name] == value for name, value in one.items() if name in other)
