"""What must hold of every policy and request: the index changes nothing, denies and audits only
take away, and no error anywhere becomes an allow."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy import evaluate as module
from exclave_policy.conditions import Condition, ConditionFailed, bind
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.rules import Rule
from exclave_policy.model import ACTIONS, ANY, DEFAULT_DENY, RESOURCES, Request
from exclave_policy.schema import activation
from exclave_testing.policies import allow, ask, compiled, deny

ROLES = ("analyst", "reviewer", "guest")
CONDITIONS = (
    "request.stream",
    "request.message_count > 2",
    "subject.roles[1] == 'reviewer'",  # fails for one role
    "request.message_count / request.inputs == 1",  # fails for none
    "size(data.personal) > 0",
)


def some(values: Iterable[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(values)), unique=True, min_size=least, max_size=2)


@st.composite
def rules(
    draw: st.DrawFn, effects: tuple[str, ...] = ("allow", "deny", "oblige")
) -> dict[str, Any]:
    effect = draw(st.sampled_from(effects))
    rule: dict[str, Any] = {"effect": effect}
    if effect == "allow":
        rule["subjects"] = {"roles": draw(some(ROLES, 1))}
        rule["actions"] = draw(some(("chat", "embed", "call_tool"), 1))
        rule["models"] = draw(st.sampled_from([["*"], ["m"], ["n"]]))
        if "call_tool" in rule["actions"]:
            rule["tools"] = draw(st.sampled_from([["*"], ["t"]]))
    elif draw(st.booleans()):
        rule["models"] = draw(st.sampled_from([["m"], ["n", "m"]]))
    if effect == "oblige":
        rule["obligations"] = {"notices": ["told"]}
    if draw(st.booleans()):
        rule["when"] = draw(st.sampled_from(CONDITIONS))
    if draw(st.booleans()):
        rule["data_classes"] = draw(st.sampled_from([["*"], ["x"], [""]]))
    if draw(st.integers(0, 4)) == 0:
        rule["mode"] = "audit"
    return rule


REQUESTS = st.builds(
    ask,
    action=st.sampled_from(["chat", "embed", "call_tool", "infer"]),
    model=st.sampled_from(["m", "n", "o"]),
    roles=st.lists(st.sampled_from(ROLES), max_size=3).map(tuple),
    data_class=st.sampled_from(["", "x", "y"]),
    stream=st.booleans(),
    message_count=st.integers(0, 4),
    inputs=st.integers(0, 2),
    personal=st.sampled_from([(), ("card",)]),
).map(lambda r: replace(r, resource="t") if r.action in RESOURCES else r)


def made(*given_rules: dict[str, Any]) -> CompiledPolicy:
    return compiled(*({"id": f"r{n}"} | rule for n, rule in enumerate(given_rules)))


def by_hand(policy: CompiledPolicy, request: Request) -> tuple[bool, str]:
    """Every rule in turn, without an index: the same rules of the page, written once more."""
    allowed = ""
    for rule in policy.rules:
        if rule.mode == "audit" or not about(rule, request):
            continue
        if rule.when is not None:
            try:
                if not rule.when.holds(bind(activation(request))):
                    continue
            except ConditionFailed:
                return False, rule.id
        if rule.effect == "deny":
            return False, rule.id
        if rule.effect == "allow":
            allowed = allowed or rule.id
    return bool(allowed), allowed or DEFAULT_DENY


def about(rule: Rule, request: Request) -> bool:
    def fits(names: frozenset[str], value: str) -> bool:
        return not names or ANY in names or value in names

    roles = not rule.roles or ANY in rule.roles or not rule.roles.isdisjoint(request.roles)
    resource = RESOURCES.get(request.action)
    return (
        roles
        and fits(rule.actions, request.action)
        and fits(rule.models, request.model)
        and fits(rule.data_classes, request.data_class)
        and (resource is None or fits(getattr(rule, resource), request.resource))
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(rules(), max_size=6), REQUESTS)
def test_the_index_changes_nothing(given_rules: list[dict[str, Any]], request: Request) -> None:
    if not given_rules:
        return
    policy = made(*given_rules)
    decision = policy.evaluate(request)
    assert (decision.allowed, decision.rule) == by_hand(policy, request)


@settings(max_examples=150, deadline=None)
@given(st.lists(rules(), min_size=1, max_size=5), rules(effects=("deny",)), REQUESTS)
def test_one_more_deny_never_allows_more(
    given_rules: list[dict[str, Any]], more: dict[str, Any], request: Request
) -> None:
    before = made(*given_rules).evaluate(request)
    after = made(*given_rules, more | {"mode": "enforce"}).evaluate(request)
    assert before.allowed or not after.allowed


@settings(max_examples=150, deadline=None)
@given(st.lists(rules(), min_size=1, max_size=5), rules(), REQUESTS)
def test_an_audited_rule_decides_nothing(
    given_rules: list[dict[str, Any]], more: dict[str, Any], request: Request
) -> None:
    before = made(*given_rules).evaluate(request)
    after = made(*given_rules, more | {"mode": "audit"}).evaluate(request)
    assert before == after, "what would have been is beside it, and not compared"


@settings(max_examples=10, deadline=None)
@given(st.lists(rules(), min_size=3, max_size=6), st.lists(REQUESTS, min_size=8, max_size=8))
def test_eight_threads_get_the_same_answers(
    given_rules: list[dict[str, Any]], requests: list[Request]
) -> None:
    policy = made(*given_rules)
    alone = [policy.evaluate(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(lambda _: [policy.evaluate(each) for each in requests], range(8)):
            assert together == alone


# --- no error becomes an allow -------------------------------------------------------------------

BROKEN = {
    "a lone surrogate": {"model": "\ud800"},
    "a number beyond 64 bits": {"message_count": 2**63},
    "a number that is none": {"message_count": "7"},
    "nothing": {"message_count": None},
    "roles that are none": {"roles": (1,)},
    "an action that is none": {"action": ["chat"]},
    "no facts": {"facts": None},
    "an hour that is none": {"hour": object()},
}
SEES_IT = (
    "request.model != '' && request.message_count < 1000000 && size(subject.roles) < 9"
    " && time.hour != 23 && model.remote == false"
)


@pytest.mark.parametrize("effect", ["allow", "deny", "oblige"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_request_that_cannot_be_seen_is_denied(what: str, effect: str) -> None:
    """THE test that tries: something is wrong with the request, in a rule of each effect."""
    rule: dict[str, Any] = {"id": "sees", "effect": effect, "when": SEES_IT}
    if effect == "oblige":
        rule["obligations"] = {"notices": ["told"]}
    if effect == "allow":
        rule = allow("sees", when=SEES_IT, subjects={"roles": ["*"]})
    policy = compiled(allow("open", models=["*"], subjects={"roles": ["*"]}), rule)
    decision = policy.evaluate(replace(ask(), **BROKEN[what]))
    assert not decision.allowed
    assert decision.rule in ("sees", DEFAULT_DENY) and decision.reason


@pytest.mark.parametrize(
    "when",
    [
        "subject.roles[7] == 'a'",
        "request.message_count / request.inputs == 0",
        "request.max_tokens + 1 > 0",
        "subject.roles.all(a, subject.roles.all(b, a != 'z' && b != 'z'))",
    ],
)
@pytest.mark.parametrize("effect", ["allow", "deny", "oblige"])
def test_a_condition_without_an_answer_denies(effect: str, when: str) -> None:
    more = {"obligations": {"notices": ["told"]}} if effect == "oblige" else {}
    rule = allow("fails", when=when) if effect == "allow" else deny("fails", when=when) | more
    policy = compiled(allow("open"), rule | {"effect": effect})
    request = ask(roles=("analyst", *(f"r{n}" for n in range(200)))) if "all" in when else ask()
    decision = policy.evaluate(request)
    assert (decision.allowed, decision.rule) == (False, "fails")
    assert "fails" in decision.reason


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError, RecursionError])
@pytest.mark.parametrize("part", ["holds", "bind", "activation", "_covers", "joined"])
def test_a_part_that_breaks_denies(
    part: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks inside, in the library or in ours."""

    def broken(*_: object, **__: object) -> Any:
        raise error("zebra")

    policy = compiled(
        allow("open", when="request.model != ''", obligations={"notices": ["a"]}),
        {"id": "told", "effect": "oblige", "obligations": {"notices": ["b"]}},
        deny("never", when="request.model == 'other'"),
    )
    assert policy.evaluate(ask()).allowed
    owner: Any = {"holds": Condition, "joined": CompiledPolicy}.get(part, module)
    monkeypatch.setattr(owner, part, broken)
    decision = policy.evaluate(ask())
    assert not decision.allowed and "zebra" not in decision.reason


def test_every_action_is_denied_by_default() -> None:
    policy = compiled(deny("none", models=["other"]))
    for action in ACTIONS:
        decision = policy.evaluate(ask(action=action))
        assert (decision.allowed, decision.rule) == (False, DEFAULT_DENY)
