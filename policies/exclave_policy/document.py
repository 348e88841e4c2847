"""Reads one document of a pack, whatever its kind, and says everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from exclave_policy.budgets import Budget, read_budget
from exclave_policy.caching import CachePolicy, read_cache
from exclave_policy.clauses import read_condition
from exclave_policy.fields import MODEL, NAME, ROLE, Fields
from exclave_policy.heading import API_VERSION, header, metadata
from exclave_policy.model import ACTIONS, DEFAULT_DENY
from exclave_policy.routes import Route, read_route
from exclave_policy.rules import Policy, Rule
from exclave_policy.source import Node, Report, Sequence, parse, read_text

__all__ = ["API_VERSION", "KINDS", "MAX_RULES", "Document", "read_document"]

MAX_RULES = 1000
"""Most rules of one pack, all its documents together."""
MAX_TOKEN_LIMIT = 2**31 - 1

Document: TypeAlias = Policy | Route | Budget | CachePolicy


def read_document(raw: bytes, report: Report) -> Document | None:
    """Parse one document; None when faults were reported."""
    before = len(report.problems) + report.dropped
    text = read_text(raw, report)
    root = None if text is None else parse(text, report)
    if text is None or root is None:
        return None
    top, kind = header(root, tuple(KINDS), report)
    spec = top.get("spec")
    document = None
    if spec is not None:
        # A document of no kind we know is read as a policy, so that its other faults show too.
        document = KINDS[kind or "Policy"](top, spec, text, report)
    return document if len(report.problems) + report.dropped == before else None


def _policy(top: Fields, spec: Node, text: str, report: Report) -> Policy:
    meta = metadata(top)
    fields = Fields(spec, "spec", report, known=("rules",), required=("rules",))
    node = fields.get("rules")
    rules: list[Rule] = []
    if node is not None and not isinstance(node, Sequence):
        fields.wrong(node, "rules", "expected a list of rules", "start each rule with '- id:'")
    elif node is not None and not node.items:
        fields.wrong(node, "rules", "the list is empty", "a policy needs at least one rule")
    elif node is not None and len(node.items) > MAX_RULES:
        fields.wrong(node, "rules", f"{len(node.items)} rules are too many", f"at most {MAX_RULES}")
    elif node is not None:
        rules = [_rule(item, f"spec.rules[{i}]", text, report) for i, item in enumerate(node.items)]
    return Policy(*meta, rules=tuple(rules))


def _rule(node: Node, path: str, text: str, report: Report) -> Rule:
    fields = Fields(
        node,
        path,
        report,
        known=("id", "description", "effect", "subjects", "actions", "models", "when", "limits"),
        required=("id", "effect"),
    )
    rule_id = fields.word("id", NAME)
    if rule_id == DEFAULT_DENY:
        fields.wrong(node, "id", f"{DEFAULT_DENY!r} is reserved", "choose another id")
    given = fields.choice("effect", ("allow", "deny"))
    effect: Literal["allow", "deny"] = "allow" if given == "allow" else "deny"
    if given == "allow":
        for name in ("subjects", "actions", "models"):
            if fields.get(name) is None:
                fix = f"an allow rule names whom and what it allows: add {name!r}"
                report.add(node, path, f"field {name!r} is missing", fix)
    return Rule(
        id=rule_id,
        description=fields.text("description"),
        effect=effect,
        roles=_roles(fields),
        actions=frozenset(item.value for item in fields.names("actions", choices=ACTIONS)),
        models=frozenset(item.value for item in fields.names("models", shape=MODEL, wildcard=True)),
        when=read_condition(fields, "when", text),
        max_tokens=_limits(fields, given),
        file=report.file,
        line=node.line,
    )


def _roles(fields: Fields) -> frozenset[str]:
    node = fields.get("subjects")
    if node is None:
        return frozenset()
    known = ("roles",)
    inner = Fields(node, fields.at("subjects"), fields.report, known=known, required=known)
    return frozenset(item.value for item in inner.names("roles", shape=ROLE, wildcard=True))


def _limits(fields: Fields, effect: str) -> int | None:
    node = fields.get("limits")
    if node is None:
        return None
    known = ("max_tokens",)
    inner = Fields(node, fields.at("limits"), fields.report, known=known, required=known)
    if effect == "deny":
        fields.wrong(node, "limits", "a deny rule has no limits", "remove them")
    return inner.whole("max_tokens", 1, MAX_TOKEN_LIMIT)


def _budget(top: Fields, spec: Node, text: str, report: Report) -> Budget | None:
    metadata(top)
    return read_budget(top, spec, text, report)


def _cache(top: Fields, spec: Node, text: str, report: Report) -> CachePolicy | None:
    metadata(top)
    return read_cache(top, spec, text, report)


KINDS: dict[str, Callable[[Fields, Node, str, Report], Document | None]] = {
    "Policy": _policy,
    "Route": read_route,
    "Budget": _budget,
    "Cache": _cache,
}
"""How each kind of document is read."""
