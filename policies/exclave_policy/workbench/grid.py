"""A grid of requests over everything that two policies could tell apart, bounded and the same each
time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from exclave_policy.conditions import Condition
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import ANY, MODEL_ACTIONS, RESOURCES
from exclave_policy.recorded import Recorded
from exclave_policy.schema import CONTENT, VARIABLES, Value
from exclave_policy.workbench.domain import OTHER, domain_of

MAX_POINTS = 20_000
"""Most requests that are tried."""

Point: TypeAlias = tuple[int, ...]
"""The place of each dimension's value."""

ASKED = "action"
_FIXED = ("request.action", "request.model", "request.data_class", "subject.roles")
_OF_RESOURCES = ("request.tool", "request.endpoint", "request.secret")


@dataclass(frozen=True, slots=True)
class Grid:
    """Dimensions, and the values of each that are tried."""

    names: tuple[str, ...]
    """`ASKED` (action and resource together), and declared names."""
    values: tuple[Sequence[Value], ...]

    @property
    def size(self) -> int:
        """All combinations."""
        number = 1
        for each in self.values:
            number *= len(each)
        return number

    @property
    def whole(self) -> bool:
        """Whether every combination is tried."""
        return self.size <= MAX_POINTS

    def points(self) -> Iterator[Point]:
        """Those that are tried: all of them, or as many as are allowed, spread evenly."""
        if self.whole:
            yield from product(*(range(len(each)) for each in self.values))
            return
        seen: set[Point] = set()
        for number in range(MAX_POINTS):
            point = self._spread(number)
            if point not in seen:
                seen.add(point)
                yield point

    def recorded(self, point: Point) -> Recorded:
        """The request of a point, in the record's form."""
        found: dict[str, Value] = {}
        for name, values, place in zip(self.names, self.values, point, strict=True):
            if name != ASKED:
                found[name] = values[place]
                continue
            action, _, resource = str(values[place]).partition(" ")
            found["request.action"] = action
            for about, key in zip(RESOURCES, _OF_RESOURCES, strict=True):
                found[key] = resource if action == about else ""
        return Recorded(found, ())

    def _spread(self, number: int) -> Point:
        digest = hashlib.sha256(str(number).encode()).digest()
        large = int.from_bytes(digest)
        point = []
        for values in self.values:
            large, place = divmod(large, len(values))
            point.append(place)
        return tuple(point)


def grid_of(*policies: CompiledPolicy) -> Grid:
    """The grid that covers what any of them names, and something else of each kind."""
    rules = [rule for policy in policies for rule in policy.rules]
    conditions = [rule.when for rule in rules if rule.when is not None]
    found: dict[str, Sequence[Value]] = {
        ASKED: _asked(policies),
        "subject.roles": [[], *([role] for role in _names(rule.roles for rule in rules))],
        "request.model": [*_names(rule.models for rule in rules), OTHER],
        "request.data_class": list(
            dict.fromkeys(["", *_names(rule.data_classes for rule in rules), OTHER])
        ),
    }
    seen = domain_of(*conditions).values if conditions else {}
    for name, values in seen.items():
        if name == "request.data_class":
            found[name] = list(dict.fromkeys([*found[name], *values]))
        elif name == "request.model":
            found[name] = list(dict.fromkeys([*found[name], *_literal(values)]))
        elif name not in (*_FIXED, *_OF_RESOURCES) and name not in CONTENT:
            found[name] = values
    return Grid(tuple(found), tuple(found.values()))


def _asked(policies: Sequence[CompiledPolicy]) -> list[Value]:
    """Actions, each with the resources that rules name."""
    found: list[Value] = list(MODEL_ACTIONS)
    rules = [rule for policy in policies for rule in policy.rules]
    for action, field in RESOURCES.items():
        names = _names(getattr(rule, field) for rule in rules)
        if names or any(action in rule.actions for rule in rules):
            found += [f"{action} {name}" for name in (*names, OTHER)]
    return found


def _names(sets: Iterable[frozenset[str]]) -> list[str]:
    return sorted(frozenset().union(*sets) - {ANY})


def _literal(values: Sequence[Value]) -> list[Value]:
    return [each for each in values if each not in ("", OTHER)]


def unseen(conditions: Iterable[Condition]) -> frozenset[str]:
    """Names of content that conditions see, and no grid tries."""
    return frozenset().union(*(each.names & CONTENT for each in conditions))


assert set(_FIXED) <= VARIABLES.keys()
