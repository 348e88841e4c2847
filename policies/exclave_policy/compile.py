"""Compiles a pack: every document read, all of them held against each other.

All faults of all documents are listed, not only the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from exclave_policy.crosscheck import problems_between
from exclave_policy.document import MAX_RULES, Document, read_document
from exclave_policy.errors import PolicyInvalid, Problem
from exclave_policy.evaluate import CompiledPolicy, Documents
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.budgets import Budget
from exclave_policy.kinds.caching import CachePolicy
from exclave_policy.kinds.files import beside
from exclave_policy.kinds.finality import Finality
from exclave_policy.kinds.redactions import Redaction
from exclave_policy.kinds.retention import Retention
from exclave_policy.kinds.routes import Route
from exclave_policy.kinds.rules import Policy
from exclave_policy.kinds.telemetry import Telemetry
from exclave_policy.kinds.validators import Validator
from exclave_policy.pack import Pack
from exclave_policy.source import Report


def compile_pack(pack: Pack) -> CompiledPolicy:
    """Check every document of a pack and compile it.

    Raises: PolicyInvalid listing every problem of every document.
    """
    found = _Found()
    for path in pack.policies():
        report = Report(path)
        raw = pack.files[path].encode("utf-8", "surrogatepass")
        document = read_document(raw, report, beside(path, pack.files))
        found.problems.extend(report.all())
        found.take(document, path)
    if not found.policies and not found.problems:
        message = "the pack holds no policy document"
        found.problems.append(Problem("", 0, 0, "", message, "add a policy.yaml"))
    documents = found.documents()
    found.problems += problems_between(found.policies, documents, whole=not found.problems)
    rules = [rule for policy in found.policies for rule in policy.rules]
    if len(rules) > MAX_RULES:
        message = f"{len(rules)} rules are too many"
        found.problems.append(Problem("", 0, 0, "", message, f"at most {MAX_RULES} in one pack"))
    if found.problems:
        raise PolicyInvalid(found.problems)
    return CompiledPolicy(pack.name, pack.version, rules, documents)


T = TypeVar("T")


@dataclass(slots=True)
class _Found:
    """The documents of a pack by kind, and what is wrong with them."""

    policies: list[Policy] = field(default_factory=list)
    others: dict[type[object], list[Document]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def documents(self) -> Documents:
        return Documents(
            routes=self._all(Route),
            budget=self._one(Budget),
            cache=self._one(CachePolicy),
            validators=self._all(Validator),
            redactions=self._all(Redaction),
            approvals=self._all(Approval),
            retention=self._one(Retention),
            telemetry=self._one(Telemetry),
            finality=self._one(Finality),
            roles=frozenset(role for policy in self.policies for role in policy.roles),
        )

    def take(self, document: Document | None, path: str) -> None:
        if document is None:
            return
        if isinstance(document, Policy):
            self.policies.append(document)
            return
        kind = type(document)
        if kind in _ONCE and kind in self.others:
            # Two of them would leave open which one holds.
            message, fix = (
                f"a second document of kind {_ONCE[kind]}",
                "a pack, or a release, has one",
            )
            self.problems.append(Problem(path, 1, 1, "", message, fix))
        self.others.setdefault(kind, []).append(document)

    def _all(self, kind: type[T]) -> tuple[T, ...]:
        return tuple(each for each in self.others.get(kind, ()) if isinstance(each, kind))

    def _one(self, kind: type[T]) -> T | None:
        return next(iter(self._all(kind)), None)


_ONCE: Mapping[type[object], str] = {
    Budget: "Budget",
    CachePolicy: "Cache",
    Retention: "Retention",
    Telemetry: "Telemetry",
    Finality: "Finality",
}
"""Kinds of which a pack has at most one document."""
