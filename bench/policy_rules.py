"""Twenty realistic rules and the requests they are asked, in one form for every engine.

Imported by bench/policy.py and, in the peers' environment, by bench/policy_peer.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Test: TypeAlias = tuple[str, str, Any]
"""(name, operator, literal): operators ==, !=, <, <=, >, >=, in, has, lacks (of roles)."""


@dataclass(frozen=True)
class Rule:
    """One rule; every test must hold. Empty lists: any."""

    id: str
    effect: str
    roles: Sequence[str] = ()
    actions: Sequence[str] = ()
    models: Sequence[str] = ()
    tests: Sequence[Test] = ()


TEXT = ("chat", "complete")
RULES = (
    Rule(
        "no-restricted",
        "deny",
        tests=[("data_class", "==", "restricted"), ("roles", "lacks", "reviewer")],
    ),
    Rule("no-health-at-night", "deny", tests=[("data_class", "==", "health"), ("hour", ">=", 22)]),
    Rule("no-huge-prompts", "deny", actions=TEXT, tests=[("prompt_bytes", ">", 262144)]),
    Rule("no-endless-chats", "deny", actions=["chat"], tests=[("message_count", ">", 200)]),
    Rule("no-interns-on-large", "deny", roles=["intern"], models=["large"]),
    Rule("no-weekend-batches", "deny", tests=[("priority", "==", "batch"), ("weekday", ">=", 5)]),
    Rule(
        "no-streams-of-health",
        "deny",
        actions=TEXT,
        tests=[("data_class", "==", "health"), ("stream", "==", True)],
    ),
    Rule("no-tensors-unlabelled", "deny", actions=["infer"], tests=[("data_class", "==", "")]),
    Rule(
        "analyst-chat",
        "allow",
        ["analyst"],
        ["chat"],
        ["small", "large"],
        [("max_tokens", "<=", 512)],
    ),
    Rule("analyst-complete", "allow", ["analyst"], ["complete"], ["small"]),
    Rule("analyst-embed", "allow", ["analyst", "service"], ["embed"], ["embedder"]),
    Rule(
        "reviewer-text",
        "allow",
        ["reviewer"],
        TEXT,
        ["small", "large"],
        [("max_tokens", "<=", 2048)],
    ),
    Rule(
        "service-text",
        "allow",
        ["service"],
        TEXT,
        ["small"],
        [("message_count", "<=", 32), ("stream", "==", False)],
    ),
    Rule(
        "service-score",
        "allow",
        ["service", "analyst"],
        ["infer"],
        ["fraud"],
        [("data_class", "in", ["internal", "card"])],
    ),
    Rule(
        "clerk-day",
        "allow",
        ["clerk"],
        ["chat"],
        ["small"],
        [("hour", ">=", 6), ("hour", "<", 20), ("weekday", "<", 5)],
    ),
    Rule("clerk-night", "allow", ["clerk"], ["chat"], ["small"], [("roles", "has", "night-shift")]),
    Rule(
        "doctor-health",
        "allow",
        ["doctor"],
        ["chat"],
        ["large"],
        [("data_class", "in", ["health", ""])],
    ),
    Rule(
        "admin-probe", "allow", ["admin"], ["chat"], ["small", "large"], [("max_tokens", "<=", 16)]
    ),
    Rule(
        "claims-triage",
        "allow",
        ["claims"],
        ["chat"],
        ["large"],
        [("workflow", "==", "triage"), ("prompt_bytes", "<", 65536)],
    ),
    Rule(
        "rank-documents",
        "allow",
        ["analyst", "claims"],
        ["rerank"],
        ["ranker"],
        [("inputs", "<=", 200)],
    ),
)

BASE: Mapping[str, Any] = {
    "roles": ["analyst"],
    "action": "chat",
    "model": "small",
    "data_class": "internal",
    "max_tokens": 256,
    "stream": False,
    "message_count": 4,
    "inputs": 4,
    "prompt_bytes": 2000,
    "priority": "interactive",
    "workflow": "",
    "hour": 10,
    "weekday": 2,
}
"""Every field of a request."""


def requests() -> list[dict[str, Any]]:
    """What is asked: each rule's own case, and neighbours that it does not cover."""
    found = [dict(BASE)]
    for rule in RULES:
        for role in (*rule.roles, "analyst", "intern"):
            for action in (*rule.actions, "chat"):
                for model in (*rule.models, "small"):
                    case = {**BASE, "roles": [role], "action": action, "model": model}
                    found += [case, *_varied(case, rule.tests)]
    return found


def _varied(case: dict[str, Any], tests: Sequence[Test]) -> list[dict[str, Any]]:
    made = []
    for name, operator, value in tests:
        if name == "roles":
            made.append({**case, "roles": [*case["roles"], value]})
        elif operator == "in":
            made += [{**case, name: each} for each in value]
        else:
            near = (value, value + 1) if type(value) is int else (value,)
            made += [{**case, name: each} for each in near]
    return made


def decide(rules: Sequence[Rule], asked: Mapping[str, Any]) -> bool:
    """What is right, in the plainest way: deny overrides, default deny."""
    allowed = False
    for rule in rules:
        if _about(rule, asked) and all(_holds(asked, test) for test in rule.tests):
            if rule.effect == "deny":
                return False
            allowed = True
    return allowed


def _about(rule: Rule, asked: Mapping[str, Any]) -> bool:
    return (
        (not rule.roles or bool(set(rule.roles) & set(asked["roles"])))
        and (not rule.actions or asked["action"] in rule.actions)
        and (not rule.models or asked["model"] in rule.models)
    )


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "in": lambda a, b: a in b,
    "has": lambda a, b: b in a,
    "lacks": lambda a, b: b not in a,
}


def _holds(asked: Mapping[str, Any], test: Test) -> bool:
    name, operator, value = test
    return _OPERATORS[operator](asked[name], value)
