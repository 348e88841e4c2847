"""Documents of kind Policy: rules as they stand after every check, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from exclave_policy.clauses import read_condition
from exclave_policy.conditions import Condition
from exclave_policy.errors import nearest
from exclave_policy.fields import DATA_CLASS, HOST, MODEL, NAME, ROLE, SECRET, TOOL, Fields, Item
from exclave_policy.heading import metadata
from exclave_policy.model import (
    ACTIONS,
    DEFAULT_DENY,
    EFFECTS,
    MODEL_ACTIONS,
    MODES,
    NO_OBLIGATIONS,
    RESOURCES,
    Effect,
    Mode,
    Obligations,
)
from exclave_policy.source import Node, Report, Sequence, shown

MAX_RULES = 1000
"""Most rules of one pack, all its documents together."""
MAX_TOKEN_LIMIT = 2**31 - 1
MAX_OBLIGATIONS = 16
"""Most documents of one kind that a rule names."""
MAX_NOTICE = 256
"""Most characters of a notice: it travels in a header."""

_NOTICE = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")
_SHAPES: Final[dict[str, re.Pattern[str]]] = {"tools": TOOL, "endpoints": HOST, "secrets": SECRET}
_RULE = (
    "id",
    "description",
    "effect",
    "mode",
    "subjects",
    "actions",
    "models",
    "data_classes",
    *RESOURCES.values(),
    "when",
    "limits",
    "obligations",
)
_OBLIGATIONS = ("validators", "redactions", "approvals", "retention", "notices")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked. Empty sets of names (deny and oblige rules only): any."""

    id: str
    description: str
    effect: Effect
    roles: frozenset[str]
    actions: frozenset[str]
    models: frozenset[str]
    when: Condition | None
    """None: always."""
    max_tokens: int | None
    file: str
    line: int
    mode: Mode = "enforce"
    """Of the rule, else of its policy."""
    data_classes: frozenset[str] = frozenset()
    """Labels of data; "" is unlabelled data. Empty, or `ANY` in it: any."""
    tools: frozenset[str] = frozenset()
    """Only for `call_tool`; as are the next two for their actions."""
    endpoints: frozenset[str] = frozenset()
    """Hosts of remote models, lower case."""
    secrets: frozenset[str] = frozenset()
    obligations: Obligations = NO_OBLIGATIONS
    """Of allow and oblige rules."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One document of kind Policy."""

    name: str
    version: str
    description: str
    rules: tuple[Rule, ...]
    mode: Mode = "enforce"
    """Of rules that name none."""
    roles: tuple[str, ...] = ()
    """The roles that there are, where the document declares them: no rule names another one."""


def read_policy(top: Fields, spec: Node, text: str, report: Report) -> Policy:
    """Read a Policy's `metadata` and `spec`; what faults leave of it, when there are any."""
    name, version, description = metadata(top)
    known = ("mode", "roles", "rules")
    fields = Fields(spec, "spec", report, known=known, required=("rules",))
    mode = _mode(fields, "enforce")
    roles = tuple(item.value for item in fields.names("roles", shape=ROLE))
    node = fields.get("rules")
    rules: list[Rule] = []
    if node is not None and not isinstance(node, Sequence):
        fields.wrong(node, "rules", "expected a list of rules", "start each rule with '- id:'")
    elif node is not None and not node.items:
        fields.wrong(node, "rules", "the list is empty", "a policy needs at least one rule")
    elif node is not None and len(node.items) > MAX_RULES:
        fields.wrong(node, "rules", f"{len(node.items)} rules are too many", f"at most {MAX_RULES}")
    elif node is not None:
        reader = _RuleReader(text, report, mode, roles)
        rules = [reader.read(item, f"spec.rules[{i}]") for i, item in enumerate(node.items)]
    return Policy(name, version, description, tuple(rules), mode, roles)


def _mode(fields: Fields, default: Mode) -> Mode:
    given = fields.choice("mode", MODES)
    return next((mode for mode in MODES if mode == given), default)


class _RuleReader:
    """Reads the rules of one document."""

    def __init__(self, text: str, report: Report, mode: Mode, roles: tuple[str, ...]) -> None:
        self._text = text
        self._report = report
        self._usual = mode
        self._roles = roles

    def read(self, node: Node, path: str) -> Rule:
        fields = Fields(node, path, self._report, known=_RULE, required=("id", "effect"))
        rule_id = fields.word("id", NAME)
        if rule_id == DEFAULT_DENY:
            fields.wrong(node, "id", f"{DEFAULT_DENY!r} is reserved", "choose another id")
        given = fields.choice("effect", EFFECTS)
        # What is no effect at all is read as the strictest, so that nothing else is missed.
        effect: Effect = next((each for each in EFFECTS if each == given), "deny")
        actions = frozenset(item.value for item in fields.names("actions", choices=ACTIONS))
        resources = {each: self._resource(fields, each, actions) for each in RESOURCES.values()}
        obligations = self._obligations(fields, given)
        if effect == "allow":
            self._whom_and_what(fields, node, actions)
        if effect == "oblige" and fields.get("obligations") is None and not fields.get("limits"):
            fix = "add 'obligations' or 'limits'"
            self._report.add(node, path, "an oblige rule that asks for nothing", fix)
        return Rule(
            id=rule_id,
            description=fields.text("description"),
            effect=effect,
            roles=self._subjects(fields),
            actions=actions,
            models=_values(fields.names("models", shape=MODEL, wildcard=True)),
            when=read_condition(fields, "when", self._text),
            max_tokens=self._limits(fields, given),
            file=self._report.file,
            line=node.line,
            mode=_mode(fields, self._usual),
            data_classes=_values(fields.names("data_classes", shape=DATA_CLASS, wildcard=True)),
            **resources,
            obligations=obligations,
        )

    def _whom_and_what(self, fields: Fields, node: Node, actions: frozenset[str]) -> None:
        """What is allowed is written down: whom, what, and each kind of thing it is for."""
        needed = ["subjects", "actions"]
        if not actions or not actions.isdisjoint(MODEL_ACTIONS):
            needed.append("models")
        needed += [name for action, name in RESOURCES.items() if action in actions]
        for name in needed:
            if fields.get(name) is None:
                fix = f"an allow rule names whom and what it allows: add {name!r}"
                self._report.add(node, fields.path, f"field {name!r} is missing", fix)

    def _resource(self, fields: Fields, name: str, actions: frozenset[str]) -> frozenset[str]:
        found = fields.names(name, shape=_SHAPES[name], wildcard=True)
        node = fields.get(name)
        action = next(action for action, field in RESOURCES.items() if field == name)
        if node is not None and action not in actions:
            fix = f"add {action} to actions, or remove it"
            fields.wrong(node, name, f"{name} are for the action {action}", fix)
        return _values(found)

    def _subjects(self, fields: Fields) -> frozenset[str]:
        node = fields.get("subjects")
        if node is None:
            return frozenset()
        known = ("roles",)
        inner = Fields(node, fields.at("subjects"), fields.report, known=known, required=known)
        found = inner.names("roles", shape=ROLE, wildcard=True)
        check_roles(found, self._roles, fields.report)
        return _values(found)

    def _limits(self, fields: Fields, effect: str) -> int | None:
        node = fields.get("limits")
        if node is None:
            return None
        known = ("max_tokens",)
        inner = Fields(node, fields.at("limits"), fields.report, known=known, required=known)
        if effect == "deny":
            fields.wrong(node, "limits", "a deny rule has no limits", "remove them")
        return inner.whole("max_tokens", 1, MAX_TOKEN_LIMIT)

    def _obligations(self, fields: Fields, effect: str) -> Obligations:
        node = fields.get("obligations")
        if node is None:
            return NO_OBLIGATIONS
        if effect == "deny":
            fields.wrong(node, "obligations", "a deny rule obliges to nothing", "remove them")
        inner = Fields(node, fields.at("obligations"), fields.report, known=_OBLIGATIONS)
        if all(inner.get(name) is None for name in _OBLIGATIONS):
            fix = f"give at least one of {', '.join(_OBLIGATIONS)}"
            fields.wrong(node, "obligations", "nothing is asked for", fix)
        return Obligations(
            validators=_named(inner, "validators"),
            redactions=_named(inner, "redactions"),
            approvals=_named(inner, "approvals"),
            retention=inner.word("retention", NAME),
            notices=_notices(inner),
        )


def check_roles(items: Iterable[Item], declared: tuple[str, ...], report: Report) -> None:
    """Where a policy declares its roles, no other one is named."""
    for item in items if declared else ():
        if item.value not in (*declared, "*"):
            message = f"role {shown(item.value)} is not declared in spec.roles"
            report.add(item.node, item.path, message, nearest(item.value, declared))


def _values(items: Iterable[Item]) -> frozenset[str]:
    return frozenset(item.value for item in items)


def _named(fields: Fields, name: str) -> tuple[str, ...]:
    found = fields.names(name, shape=NAME)
    node = fields.get(name)
    if node is not None and len(found) > MAX_OBLIGATIONS:
        fields.wrong(node, name, f"{len(found)} are too many", f"at most {MAX_OBLIGATIONS} a rule")
    return tuple(item.value for item in found)


def _notices(fields: Fields) -> tuple[str, ...]:
    found = fields.names("notices")
    for item in found:
        if _NOTICE.fullmatch(item.value) is None:
            fix = f"1 to {MAX_NOTICE} printable ASCII characters on one line"
            fields.report.add(item.node, item.path, "not a notice", fix)
    node = fields.get("notices")
    if node is not None and len(found) > MAX_OBLIGATIONS:
        message = f"{len(found)} are too many"
        fields.wrong(node, "notices", message, f"at most {MAX_OBLIGATIONS} a rule")
    return tuple(item.value for item in found)
