"""Says in words what one policy allows that another one denies, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Decision, Obligations, Request
from exclave_policy.schema import Value
from exclave_policy.workbench.domain import OTHER
from exclave_policy.workbench.grid import ASKED, Grid, Point, grid_of

MAX_CHANGES = 200
"""Most changes that are told one by one."""

Said: TypeAlias = tuple[bool, str, int | None, Obligations]
"""Allowed, by which rule, with which limit, and what it obliges to."""
Box: TypeAlias = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different, for every request of a box of the grid."""

    kind: str
    """"now allowed", "now denied" or "allowed otherwise"."""
    where: Mapping[str, Sequence[Value]]
    """The values by dimension; a dimension with all of its values is left out."""
    before: str
    after: str
    requests: int

    def __str__(self) -> str:
        return f"{self.kind}: {_words(self.where)} (was {self.before}, is {self.after})"


@dataclass(frozen=True, slots=True)
class Difference:
    """What is different between two policies."""

    changes: tuple[Change, ...]
    documents: tuple[str, ...]
    """Other documents that are new, gone or changed, in words."""
    tried: int
    """Requests that both were asked."""
    of: int
    """Requests that there are in the grid."""
    dropped: int = 0
    """Changes that are not listed."""
    cases: tuple[str, ...] = field(default=())
    """Names of cases that the two decide differently."""

    @property
    def same(self) -> bool:
        """Nothing was found."""
        return not (self.changes or self.documents or self.cases)


def diff(
    old: CompiledPolicy, new: CompiledPolicy, cases: Iterable[tuple[str, Request]] = ()
) -> Difference:
    """Ask both the same: every request of `cases`, and of a grid over what either names."""
    grid = grid_of(old, new)
    changed: dict[tuple[Said, Said], list[Point]] = {}
    tried = 0
    for point in grid.points():
        request = grid.recorded(point).request()
        before, after = _said(old.evaluate(request)), _said(new.evaluate(request))
        tried += 1
        if _differ(before, after):
            changed.setdefault((before, after), []).append(point)
    found = [
        _change(grid, before, after, box)
        for (before, after), points in changed.items()
        for box in _boxes(points)
    ]
    found.sort(key=lambda change: (change.kind, -change.requests, str(change)))
    differing = tuple(
        name
        for name, request in cases
        if _differ(_said(old.evaluate(request)), _said(new.evaluate(request)))
    )
    return Difference(
        tuple(found[:MAX_CHANGES]),
        tuple(_documents(old, new)),
        tried,
        grid.size,
        max(0, len(found) - MAX_CHANGES),
        differing,
    )


def as_json(found: Difference) -> dict[str, Any]:
    """For programs."""
    return {
        "same": found.same,
        "changes": [
            {
                "kind": change.kind,
                "where": {name: list(values) for name, values in change.where.items()},
                "before": change.before,
                "after": change.after,
                "requests": change.requests,
            }
            for change in found.changes
        ],
        "not_listed": found.dropped,
        "cases": list(found.cases),
        "documents": list(found.documents),
        "tried": found.tried,
        "of": found.of,
    }


def _said(decision: Decision) -> Said:
    return decision.allowed, decision.rule, decision.max_tokens, decision.obligations


def _differ(before: Said, after: Said) -> bool:
    """Two denials are the same to a caller, whatever rule made them; so are two allows with the
    same limits and obligations."""
    if not before[0] and not after[0]:
        return False
    return (before[0], before[2:]) != (after[0], after[2:])


def _boxes(points: Iterable[Point]) -> list[Box]:
    """The points as disjoint boxes: merged along one dimension after the other, where all the
    others agree, so that a box holds exactly points that were given."""
    boxes: list[Box] = [tuple(frozenset({place}) for place in point) for point in points]
    for dimension in range(len(boxes[0]) if boxes else 0):
        merged: dict[Box, set[int]] = {}
        for box in boxes:
            others = (*box[:dimension], *box[dimension + 1 :])
            merged.setdefault(others, set()).update(box[dimension])
        boxes = [
            (*others[:dimension], frozenset(places), *others[dimension:])
            for others, places in merged.items()
        ]
    return boxes


def _change(grid: Grid, before: Said, after: Said, box: Box) -> Change:
    where = {
        name: [values[place] for place in sorted(places)]
        for name, values, places in zip(grid.names, grid.values, box, strict=True)
        if len(places) < len(values)
    }
    requests = 1
    for places in box:
        requests *= len(places)
    kind = "allowed otherwise"
    if before[0] != after[0]:
        kind = "now allowed" if after[0] else "now denied"
    return Change(kind, where, _outcome(before), _outcome(after), requests)


def _outcome(said: Said) -> str:
    allowed, rule, limit, obligations = said
    words = [f"{'allowed' if allowed else 'denied'} by {rule}"]
    if allowed and limit is not None:
        words.append(f"at most {limit} tokens")
    for name in ("validators", "redactions", "approvals", "notices"):
        named = getattr(obligations, name)
        if named:
            words.append(f"{name} {', '.join(named)}")
    if obligations.retention:
        words.append(f"retention {obligations.retention}")
    return "; ".join(words)


def _words(where: Mapping[str, Sequence[Value]]) -> str:
    parts = [_who(where.get("subject.roles")), _what(where.get(ASKED))]
    labels = {"request.model": "model", "request.data_class": "data class"}
    for name, values in where.items():
        if name not in ("subject.roles", ASKED):
            parts.append(f"{labels.get(name, name)} {_listed(values)}")
    return ", ".join(parts)


def _who(roles: Sequence[Value] | None) -> str:
    if roles is None:
        return "anybody"
    named = [", ".join(each) for each in roles if isinstance(each, list) and each]
    nobody = ["callers without a role"] if [] in roles else []
    return " or ".join([*named, *nobody])


def _what(asked: Sequence[Value] | None) -> str:
    return "any action" if asked is None else _listed(asked)


def _listed(values: Sequence[Value]) -> str:
    if values and all(isinstance(each, int) and not isinstance(each, bool) for each in values):
        return _numbers([each for each in values if isinstance(each, int)])
    return " or ".join(_one(each) for each in values)


def _numbers(values: Sequence[int]) -> str:
    """The values that were tried: borders, so that the first and the last say most."""
    if len(values) < 3:
        return " or ".join(map(str, values))
    return f"from {values[0]} to {values[-1]}"


def _one(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if value == "":
        return "none"
    return "any other" if value == OTHER else str(value).replace(f" {OTHER}", " any other")


def _documents(old: CompiledPolicy, new: CompiledPolicy) -> Iterator[str]:
    kinds: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("route", old.routes, new.routes),
        ("validator", old.validators, new.validators),
        ("redaction", old.redactions, new.redactions),
        ("approval", old.approvals, new.approvals),
    )
    for kind, before, after in kinds:
        for name in sorted(before.keys() | after.keys()):
            if name not in before:
                yield f"{kind} {name} is new"
            elif name not in after:
                yield f"{kind} {name} is gone"
            elif _told(before[name]) != _told(after[name]):
                yield f"{kind} {name} is another one"
    for kind in ("budget", "cache", "retention", "telemetry", "finality"):
        if _told(getattr(old, kind)) != _told(getattr(new, kind)):
            yield f"the {kind} document is another one"


def _told(document: object) -> str:
    """A document without its place in a file: what it says. Conditions tell by their sources."""
    names = getattr(type(document), "__dataclass_fields__", {})
    ignored = ("file", "line", "version", "description")
    return str([(name, _plain(getattr(document, name))) for name in names if name not in ignored])


def _plain(value: object) -> object:
    if hasattr(value, "source"):
        return value.source
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return _told(value) if hasattr(type(value), "__dataclass_fields__") else value
