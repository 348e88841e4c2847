"""Compiles a pack and answers requests: default deny, deny overrides, an error denies.

Evaluation is total and deterministic: it never raises, and the same request gets the same
answer on every machine and in every thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from exclave_policy.budgets import Budget
from exclave_policy.caching import CachePolicy
from exclave_policy.conditions import ConditionFailed, bind
from exclave_policy.document import MAX_RULES, Document, read_document
from exclave_policy.errors import PolicyInvalid, Problem
from exclave_policy.model import ACTIONS, ANY, DEFAULT_DENY, Decision, Request
from exclave_policy.pack import Pack
from exclave_policy.routes import Route
from exclave_policy.rules import Policy, Rule
from exclave_policy.schema import activation
from exclave_policy.source import Report

MAX_ROLES = 256
"""Most roles of one caller."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A decision and every rule that was found to match on the way to it."""

    decision: Decision
    matched: tuple[str, ...]


class CompiledPolicy:
    """The rules of one pack, indexed, and its other documents. Immutable, so it may be shared
    between threads."""

    __slots__ = ("_index", "_rules", "budget", "cache", "name", "routes", "version")

    def __init__(
        self,
        name: str,
        version: str,
        rules: Sequence[Rule],
        routes: Iterable[Route] = (),
        budget: Budget | None = None,
        cache: CachePolicy | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.routes: Mapping[str, Route] = MappingProxyType({each.name: each for each in routes})
        """By the name that callers give."""
        self.budget = budget
        """None: nothing is counted against a limit."""
        self.cache = cache
        """None: every answer is computed."""
        # Denies first, each kind in the order of the text: the order of evaluation.
        self._rules = tuple(sorted(rules, key=lambda rule: rule.effect == "allow"))
        self._index = _index(self._rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule in the order of evaluation."""
        return self._rules

    def evaluate(self, request: Request) -> Decision:
        """Answer one request. MUST NOT raise, and MUST NOT allow after any error."""
        return self.trace(request).decision

    def trace(self, request: Request) -> Trace:
        """As `evaluate`, and which rules matched. Allow rules are not tried after a deny."""
        matched: list[str] = []
        try:
            decision = self._decide(request, matched)
        except Exception:  # noqa: BLE001 - a request of the wrong types must deny, whatever it breaks
            decision = _denied(DEFAULT_DENY, "the request cannot be evaluated")
        return Trace(decision, tuple(matched))

    def _decide(self, request: Request, matched: list[str]) -> Decision:
        if len(request.roles) > MAX_ROLES:
            return _denied(DEFAULT_DENY, f"the caller has more than {MAX_ROLES} roles")
        bound: Any = None
        allowing: list[Rule] = []
        for rule in self._candidates(request):
            if rule.when is not None:
                try:
                    if bound is None:
                        bound = bind(activation(request))
                    if not rule.when.holds(bound):
                        continue
                except ConditionFailed as failed:
                    return _denied(rule.id, f"the condition of rule {rule.id} failed: {failed}")
            matched.append(rule.id)
            if rule.effect == "deny":
                return _denied(rule.id, f"rule {rule.id} denies this")
            allowing.append(rule)
        return _allowed(allowing) if allowing else _NOTHING_ALLOWS

    def _candidates(self, request: Request) -> Iterable[Rule]:
        """Rules whose action, roles and models fit, in order of evaluation."""
        by_role = self._index.get(request.action)
        if by_role is None:
            return ()
        places: set[int] = set(by_role.get(ANY, ()))
        for role in request.roles:
            places.update(by_role.get(role, ()))
        rules = (self._rules[place] for place in sorted(places))
        return (rule for rule in rules if not rule.models or _covers(rule, request.model))


_NOTHING_ALLOWS = Decision(
    False, DEFAULT_DENY, "no rule allows this action on this model for these roles", None
)


def compile_pack(pack: Pack) -> CompiledPolicy:
    """Check every document of a pack and compile it.

    Raises: PolicyInvalid listing every problem of every document.
    """
    found = _Found()
    for path in pack.policies():
        report = Report(path)
        document = read_document(pack.files[path].encode("utf-8", "surrogatepass"), report)
        found.problems.extend(report.all())
        found.take(document, path)
    if not found.policies and not found.problems:
        message = "the pack holds no policy document"
        found.problems.append(Problem("", 0, 0, "", message, "add a policy.yaml"))
    rules = [rule for policy in found.policies for rule in policy.rules]
    found.problems += _repeated(rules)
    found.problems += _repeated_routes(found.routes)
    if len(rules) > MAX_RULES:
        message = f"{len(rules)} rules are too many"
        found.problems.append(Problem("", 0, 0, "", message, f"at most {MAX_RULES} in one pack"))
    if found.problems:
        raise PolicyInvalid(found.problems)
    return CompiledPolicy(pack.name, pack.version, rules, found.routes, found.budget, found.cache)


@dataclass(slots=True)
class _Found:
    """The documents of a pack by kind, and what is wrong with them."""

    policies: list[Policy] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    budget: Budget | None = None
    cache: CachePolicy | None = None
    problems: list[Problem] = field(default_factory=list)

    def take(self, document: Document | None, path: str) -> None:
        if isinstance(document, Policy):
            self.policies.append(document)
        elif isinstance(document, Route):
            self.routes.append(document)
        elif isinstance(document, Budget):
            self._once(self.budget, "Budget", path)
            self.budget = document
        elif isinstance(document, CachePolicy):
            self._once(self.cache, "Cache", path)
            self.cache = document

    def _once(self, former: object, kind: str, path: str) -> None:
        """Two of them would leave open which one holds."""
        if former is not None:
            message, fix = f"a second document of kind {kind}", "a pack, or a release, has one"
            self.problems.append(Problem(path, 1, 1, "", message, fix))


def _index(rules: Sequence[Rule]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Action -> role (or ANY) -> places of rules, ascending."""
    index: dict[str, dict[str, list[int]]] = {action: {} for action in ACTIONS}
    for place, rule in enumerate(rules):
        for action in rule.actions or ACTIONS:
            for role in rule.roles or (ANY,):
                index[action].setdefault(role, []).append(place)
    return {a: {r: tuple(p) for r, p in by_role.items()} for a, by_role in index.items()}


def _covers(rule: Rule, model: str) -> bool:
    return ANY in rule.models or model in rule.models


def _allowed(rules: Sequence[Rule]) -> Decision:
    """The first allowing rule names the decision; the smallest limit of all of them holds."""
    limits = [rule.max_tokens for rule in rules if rule.max_tokens is not None]
    first = rules[0].id
    return Decision(True, first, f"rule {first} allows this", min(limits, default=None))


def _denied(rule: str, reason: str) -> Decision:
    return Decision(False, rule, reason, None)


def _repeated(rules: Sequence[Rule]) -> list[Problem]:
    """Rule ids are unique in a pack: a record names the rule by its id alone."""
    first: dict[str, Rule] = {}
    problems: list[Problem] = []
    for rule in rules:
        other = first.setdefault(rule.id, rule)
        if other is not rule:
            message = f"rule id {rule.id!r} is taken in {other.file} line {other.line}"
            problems.append(Problem(rule.file, rule.line, 1, "", message, "choose another id"))
    return problems


def _repeated_routes(routes: Sequence[Route]) -> list[Problem]:
    """Callers ask for a route by its name: it is one route's alone, and never a target's."""
    first: dict[str, Route] = {}
    problems: list[Problem] = []
    for route in routes:
        other = first.setdefault(route.name, route)
        if other is not route:
            message = f"route {route.name!r} is defined in {other.file} already"
            problems.append(Problem(route.file, route.line, 1, "", message, "choose another name"))
    for route in routes:
        for i, target in enumerate(route.targets):
            if target.model in first:
                message = f"target {target.model!r} is a route"
                fix = "targets are models of the release"
                path = f"spec.targets[{i}].model"
                problems.append(Problem(route.file, route.line, 1, path, message, fix))
    return problems
