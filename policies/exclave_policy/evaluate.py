"""Compiles a pack and answers requests: default deny, deny overrides, an error denies.

Evaluation is total and deterministic: it never raises, and the same request gets the same
answer on every machine and in every thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from exclave_policy.conditions import ConditionFailed, bind
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.budgets import Budget
from exclave_policy.kinds.caching import CachePolicy
from exclave_policy.kinds.finality import Finality
from exclave_policy.kinds.redactions import Redaction
from exclave_policy.kinds.retention import Retention
from exclave_policy.kinds.routes import Route
from exclave_policy.kinds.rules import Rule
from exclave_policy.kinds.telemetry import Telemetry
from exclave_policy.kinds.validators import Validator
from exclave_policy.model import (
    ACTIONS,
    ANY,
    DEFAULT_DENY,
    NO_OBLIGATIONS,
    RESOURCES,
    Decision,
    Obligations,
    Request,
    Would,
)
from exclave_policy.schema import activation

MAX_ROLES = 256
"""Most roles of one caller."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Everything that a pack says besides its rules."""

    routes: tuple[Route, ...] = ()
    budget: Budget | None = None
    cache: CachePolicy | None = None
    validators: tuple[Validator, ...] = ()
    redactions: tuple[Redaction, ...] = ()
    approvals: tuple[Approval, ...] = ()
    retention: Retention | None = None
    telemetry: Telemetry | None = None
    finality: Finality | None = None
    roles: frozenset[str] = frozenset()
    """Those that policies declare."""


class CompiledPolicy:
    """The rules of one pack, indexed, and its other documents. Immutable, so it may be shared
    between threads."""

    __slots__ = (
        "_audited",
        "_by_id",
        "_index",
        "_rules",
        "approvals",
        "budget",
        "cache",
        "finality",
        "name",
        "names",
        "redactions",
        "retention",
        "roles",
        "routes",
        "telemetry",
        "validators",
        "version",
    )

    def __init__(
        self, name: str, version: str, rules: Sequence[Rule], documents: Documents | None = None
    ) -> None:
        found = documents or Documents()
        self.name = name
        self.version = version
        self.routes: Mapping[str, Route] = MappingProxyType({e.name: e for e in found.routes})
        """By the name that callers give."""
        self.budget = found.budget
        """None: nothing is counted against a limit."""
        self.cache = found.cache
        """None: every answer is computed."""
        self.validators: Mapping[str, Validator] = _named(found.validators)
        self.redactions: Mapping[str, Redaction] = _named(found.redactions)
        self.approvals: Mapping[str, Approval] = _named(found.approvals)
        self.retention = found.retention
        """None: values are kept."""
        self.telemetry = found.telemetry
        self.finality = found.finality
        """None: a decision is final when it is recorded."""
        self.roles = found.roles
        """The declared roles; empty: none are declared."""
        # Denies first, each kind in the order of the text: the order of evaluation.
        self._rules = tuple(sorted(rules, key=lambda rule: rule.effect != "deny"))
        self._by_id = {rule.id: rule for rule in self._rules}
        self._audited = any(rule.mode == "audit" for rule in self._rules)
        self._index = _index(self._rules)
        self.names: frozenset[str] = frozenset().union(
            *(rule.when.names for rule in self._rules if rule.when is not None)
        )
        """The declared names that a condition of a rule sees."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule in the order of evaluation."""
        return self._rules

    def rule(self, rule_id: str) -> Rule | None:
        """The rule of that id."""
        return self._by_id.get(rule_id)

    def evaluate(self, request: Request) -> Decision:
        """Answer one request. MUST NOT raise, and MUST NOT allow after any error."""
        try:
            return self._decide(request)
        except Exception:  # noqa: BLE001 - a request of the wrong types must deny, whatever it breaks
            return _denied(DEFAULT_DENY, "the request cannot be evaluated")

    def _decide(self, request: Request) -> Decision:
        if len(request.roles) > MAX_ROLES:
            return _denied(DEFAULT_DENY, f"the caller has more than {MAX_ROLES} roles")
        bound: Any = None
        matched: list[Rule] = []
        trial = _Trial()
        for rule in self.candidates(request):
            if rule.when is not None:
                try:
                    if bound is None:
                        bound = bind(activation(request, self.names))
                    if not rule.when.holds(bound):
                        continue
                except ConditionFailed as failed:
                    if rule.mode == "audit":
                        trial.denies(rule)
                        continue
                    reason = f"the condition of rule {rule.id} failed: {failed}"
                    return _denied(rule.id, reason, (rule.id,), trial.denied(rule))
            if rule.mode == "audit":
                trial.matches(rule)
            elif rule.effect == "deny":
                return _denied(
                    rule.id, f"rule {rule.id} denies this", (rule.id,), trial.denied(rule)
                )
            else:
                matched.append(rule)
        return self._allowed(matched, trial.allowed(matched))

    def candidates(self, request: Request) -> Iterable[Rule]:
        """Rules whose action, roles and names fit, in order of evaluation: all but conditions."""
        by_role = self._index.get(request.action)
        if by_role is None:
            return ()
        places: set[int] = set(by_role.get(ANY, ()))
        for role in request.roles:
            places.update(by_role.get(role, ()))
        rules = (self._rules[place] for place in sorted(places))
        return (rule for rule in rules if _covers(rule, request))

    def _allowed(self, matched: Sequence[Rule], would: Would | None) -> Decision:
        """The first allowing rule names the decision; the smallest limit of all of them holds."""
        first = next((rule for rule in matched if rule.effect == "allow"), None)
        ids = tuple(rule.id for rule in matched)
        if first is None:
            return _denied(DEFAULT_DENY, _NOTHING, ids, would)
        limits = [rule.max_tokens for rule in matched if rule.max_tokens is not None]
        return Decision(
            True,
            first.id,
            f"rule {first.id} allows this",
            min(limits, default=None),
            self._obliged(matched),
            ids,
            would,
        )

    def _obliged(self, rules: Sequence[Rule]) -> Obligations:
        """Every obligation of every rule that matched."""
        found = [rule.obligations for rule in rules if rule.obligations is not NO_OBLIGATIONS]
        return self.joined(found)

    def joined(self, several: Sequence[Obligations]) -> Obligations:
        """Several obligations as one: all of their names, the shortest of their retentions."""
        if len(several) < 2:
            return several[0] if several else NO_OBLIGATIONS
        return Obligations(
            validators=_distinct(name for each in several for name in each.validators),
            redactions=_distinct(name for each in several for name in each.redactions),
            approvals=_distinct(name for each in several for name in each.approvals),
            retention=min(
                (each.retention for each in several if each.retention),
                key=self._days,
                default="",
            ),
            notices=_distinct(text for each in several for text in each.notices),
        )

    def _days(self, retention: str) -> int:
        found = None if self.retention is None else self.retention.named(retention)
        return 0 if found is None else found.days


_NOTHING = "no rule allows this action on this model for these roles"


@dataclass(slots=True)
class _Trial:
    """What the audited rules would have made of one decision."""

    matched: list[Rule] = field(default_factory=list)
    denying: str = ""
    """The first audited rule that would have denied."""

    def matches(self, rule: Rule) -> None:
        if rule.effect == "deny":
            self.denies(rule)
        else:
            self.matched.append(rule)

    def denies(self, rule: Rule) -> None:
        self.matched.append(rule)
        self.denying = self.denying or rule.id

    def denied(self, rule: Rule) -> Would | None:
        """Beside a denial by an enforced rule."""
        return self._told(False, self.denying or rule.id)

    def allowed(self, enforced: Sequence[Rule]) -> Would | None:
        """Beside a decision that no rule denied."""
        if self.denying:
            return self._told(False, self.denying)
        allowing = [rule for rule in (*enforced, *self.matched) if rule.effect == "allow"]
        first = allowing[0].id if allowing else DEFAULT_DENY
        return self._told(bool(allowing), first)

    def _told(self, allowed: bool, rule: str) -> Would | None:
        if not self.matched:
            return None
        return Would(allowed, rule, tuple(each.id for each in self.matched))


def _index(rules: Sequence[Rule]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Action -> role (or ANY) -> places of rules, ascending."""
    index: dict[str, dict[str, list[int]]] = {action: {} for action in ACTIONS}
    for place, rule in enumerate(rules):
        for action in rule.actions or ACTIONS:
            for role in rule.roles or (ANY,):
                index[action].setdefault(role, []).append(place)
    return {a: {r: tuple(p) for r, p in by_role.items()} for a, by_role in index.items()}


def _covers(rule: Rule, request: Request) -> bool:
    if rule.models and not (ANY in rule.models or request.model in rule.models):
        return False
    labels = rule.data_classes
    if labels and not (ANY in labels or request.data_class in labels):
        return False
    resource = RESOURCES.get(request.action)
    if resource is None:
        return True
    names: frozenset[str] = getattr(rule, resource)
    # Only a rule that names no resource at all means any of them, and an allow rule never does.
    return not names or ANY in names or request.resource in names


def _denied(
    rule: str, reason: str, matched: tuple[str, ...] = (), would: Would | None = None
) -> Decision:
    return Decision(False, rule, reason, None, NO_OBLIGATIONS, matched, would)


T = TypeVar("T", Validator, Redaction, Approval)


def _named(documents: Iterable[T]) -> Mapping[str, T]:
    return MappingProxyType({each.name: each for each in documents})


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
