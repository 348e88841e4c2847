"""Turns a document of kind Policy into rules, and says everything that is wrong with it."""

from __future__ import annotations

from typing import Literal

from exclave_policy.conditions import Condition, ConditionInvalid, Fault, compile_condition
from exclave_policy.fields import MODEL, NAME, ROLE, VERSION, Fields
from exclave_policy.model import ACTIONS, DEFAULT_DENY
from exclave_policy.rules import Policy, Rule
from exclave_policy.source import Node, Report, Scalar, Sequence, parse, read_text

API_VERSION = "exclave.dev/v1"
MAX_RULES = 1000
"""Most rules of one pack, all its documents together."""
MAX_TOKEN_LIMIT = 2**31 - 1


def read_policy(raw: bytes, report: Report) -> Policy | None:
    """Parse one Policy document; None when faults were reported."""
    before = len(report.problems) + report.dropped
    text = read_text(raw, report)
    root = None if text is None else parse(text, report)
    if text is None or root is None:
        return None
    top = header(root, "Policy", report)
    spec = top.get("spec")
    policy = None
    if spec is not None:
        policy = _policy(metadata(top), spec, text, report)
    return policy if len(report.problems) + report.dropped == before else None


def header(root: Node, kind: str, report: Report) -> Fields:
    """The fields every document has."""
    names = ("apiVersion", "kind", "metadata", "spec")
    needed = names if kind != "Pack" else names[:3]
    top = Fields(root, "", report, known=needed, required=needed)
    top.choice("apiVersion", (API_VERSION,))
    top.choice("kind", (kind,))
    return top


def metadata(top: Fields) -> tuple[str, str, str]:
    """Name, version and description of a document; empty after faults."""
    node = top.get("metadata")
    if node is None:
        return "", "", ""
    known = ("name", "version", "description")
    fields = Fields(node, "metadata", top.report, known=known, required=known[:2])
    return fields.word("name", NAME), fields.word("version", VERSION), fields.text("description")


def _policy(meta: tuple[str, str, str], spec: Node, text: str, report: Report) -> Policy:
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
        when=_when(fields, text),
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


def _when(fields: Fields, text: str) -> Condition | None:
    node = fields.get("when")
    if node is None:
        return None
    if not isinstance(node, Scalar) or node.kind != "string":
        fix = "write a CEL condition in quotes"
        fields.wrong(node, "when", "expected a condition as text", fix)
        return None
    try:
        return compile_condition(node.value)
    except ConditionInvalid as invalid:
        for fault in invalid.faults:
            line, column = _place(node, fault, text)
            fields.report.add_at(line, column, fields.at("when"), fault.message, fault.fix)
    return None


def _place(node: Scalar, fault: Fault, text: str) -> tuple[int, int]:
    """Where in the file a fault of a condition is; the scalar's start when that is unclear."""
    if fault.line < 1 or fault.column < 1:
        return node.line, node.column
    if node.style == "|":
        line = node.line + fault.line
        lines = text.split("\n")
        first = next((t for t in lines[node.line :] if t.strip()), "")
        return line, len(first) - len(first.lstrip(" ")) + fault.column
    start = text.split("\n")[node.line - 1][node.column - 1 :]
    quote = len(node.style) if node.style in ("'", '"') else 0
    one_line = start[quote:].startswith(node.value)
    if not one_line or node.style == ">":
        return node.line, node.column
    return node.line, node.column + quote + fault.column - 1
