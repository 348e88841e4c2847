"""Holds the documents of a pack against each other: names that must be distinct, names that must
be there, roles that must be declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from exclave_policy.errors import Problem, nearest
from exclave_policy.evaluate import Documents
from exclave_policy.kinds.files import root_of
from exclave_policy.kinds.routes import Route
from exclave_policy.kinds.rules import Policy, Rule
from exclave_policy.model import ANY
from exclave_policy.source import MAX_PROBLEMS, shown


def problems_between(
    policies: Sequence[Policy], documents: Documents, *, whole: bool
) -> list[Problem]:
    """What is wrong between them. Not `whole`: some documents could not be read, so what nobody
    defines may be in one of those, and is not looked for."""
    found = _Found()
    _repeated_rules(policies, found)
    _repeated_routes(documents.routes, found)
    for kind, named in _kinds(documents).items():
        _repeated(kind, named, found)
    if whole:
        _obligations(policies, documents, found)
    _roles(policies, documents, found)
    return found.all()


@dataclass(slots=True)
class _Found:
    """Keeps the first MAX_PROBLEMS and counts the rest, as a `Report` does."""

    problems: list[Problem] = field(default_factory=list)
    dropped: int = 0

    def add(self, file: str, line: int, path: str, message: str, fix: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(file, line, 1, path, message, fix))
        else:
            self.dropped += 1

    def all(self) -> list[Problem]:
        if not self.dropped:
            return self.problems
        message = f"{self.dropped} more problems between documents are not listed"
        return [*self.problems, Problem("", 0, 0, "", message, "correct the others first")]


class _Named(Protocol):
    """A document that others name."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


def _kinds(documents: Documents) -> Mapping[str, Sequence[_Named]]:
    return {
        "validators": documents.validators,
        "redactions": documents.redactions,
        "approvals": documents.approvals,
    }


def _repeated_rules(policies: Sequence[Policy], found: _Found) -> None:
    """Rule ids are unique in a pack: a record names the rule by its id alone."""
    first: dict[str, Rule] = {}
    for rule in (rule for policy in policies for rule in policy.rules):
        other = first.setdefault(rule.id, rule)
        if other is not rule:
            message = f"rule id {rule.id!r} is taken in {other.file} line {other.line}"
            found.add(rule.file, rule.line, "", message, "choose another id")


def _repeated_routes(routes: Sequence[Route], found: _Found) -> None:
    """Callers ask for a route by its name: it is one route's alone, and never a target's."""
    first: dict[str, Route] = {}
    for route in routes:
        other = first.setdefault(route.name, route)
        if other is not route:
            message = f"route {route.name!r} is defined in {other.file} already"
            found.add(route.file, route.line, "", message, "choose another name")
    for route in routes:
        for i, target in enumerate(route.targets):
            if target.model in first:
                path = f"spec.targets[{i}].model"
                message = f"target {target.model!r} is a route"
                found.add(
                    route.file, route.line, path, message, "targets are models of the release"
                )


def _repeated(kind: str, documents: Sequence[_Named], found: _Found) -> None:
    """Rules name them, and would not say which of two is meant."""
    first: dict[str, _Named] = {}
    for document in documents:
        other = first.setdefault(document.name, document)
        if other is not document:
            one = kind.removesuffix("s")
            message = f"{one} {document.name!r} is defined in {other.file} already"
            found.add(document.file, document.line, "metadata.name", message, "choose another name")


def _obligations(policies: Sequence[Policy], documents: Documents, found: _Found) -> None:
    """What a rule obliges to is there."""
    known = {kind: {each.name for each in named} for kind, named in _kinds(documents).items()}
    retention = documents.retention
    classes = set() if retention is None else {each.name for each in retention.classes}
    for policy in policies:
        for i, rule in enumerate(policy.rules):
            path = f"spec.rules[{i}].obligations"
            for kind, names in known.items():
                for name in getattr(rule.obligations, kind):
                    if name not in names:
                        message = f"the pack has no {kind.removesuffix('s')} {name!r}"
                        fix = _meant(name, names, kind)
                        found.add(rule.file, rule.line, f"{path}.{kind}", message, fix)
            wanted = rule.obligations.retention
            if wanted and wanted not in classes:
                message = f"no class of data to keep is named {wanted!r}"
                fix = _meant(wanted, classes, "classes of a document of kind Retention")
                found.add(rule.file, rule.line, f"{path}.retention", message, fix)


def _meant(name: str, names: Iterable[str], what: str) -> str:
    known = sorted(names)
    return nearest(name, known) if known else f"the pack has no {what}"


def _roles(policies: Sequence[Policy], documents: Documents, found: _Found) -> None:
    """Where a pack declares its roles, none of its documents names another one. Packs that are
    combined declare each for itself."""
    declared: dict[str, set[str]] = {}
    for policy in policies:
        if policy.roles and policy.rules:
            declared.setdefault(root_of(policy.rules[0].file), set()).update(policy.roles)
    for policy in policies:
        # Those of a document that declares some were held against them as it was read.
        for i, rule in enumerate(() if policy.roles else policy.rules):
            path = f"spec.rules[{i}].subjects.roles"
            _declared(declared, rule.file, rule.line, path, rule.roles, found)
    for approval in documents.approvals:
        _declared(declared, approval.file, approval.line, "spec.roles", approval.roles, found)
    budget = documents.budget
    for i, team in enumerate(() if budget is None else budget.teams):
        file = "" if budget is None else budget.file
        _declared(declared, file, team.line, f"spec.teams[{i}].roles", team.roles, found)


def _declared(
    declared: Mapping[str, set[str]],
    file: str,
    line: int,
    path: str,
    roles: Iterable[str],
    found: _Found,
) -> None:
    known = declared.get(root_of(file))
    for role in sorted(roles) if known else ():
        if known and role not in known and role != ANY:
            message = f"role {shown(role)} is not declared in spec.roles of the pack's policy"
            found.add(file, line, path, message, nearest(role, known))
