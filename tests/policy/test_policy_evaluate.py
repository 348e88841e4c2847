"""Decisions: default deny, deny overrides, errors deny, the smallest limit, any thread."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.evaluate import MAX_ROLES
from exclave_policy.model import DEFAULT_DENY, MODEL_ACTIONS, Decision, Request
from exclave_policy.pack import Pack
from exclave_testing.policies import allow, ask, compiled, deny, document, pack_of

FAILS = "request.max_tokens / request.message_count == 1"
"""Divides by zero unless the request holds messages."""


def test_nothing_matches() -> None:
    policy = compiled(allow("a"))
    for request in (
        ask(action="embed"),
        ask(action="teleport"),
        ask(roles=()),
        ask(roles=("Analyst",)),
        ask(roles=("*",)),
    ):
        decision = policy.evaluate(request)
        assert (decision.allowed, decision.rule, decision.max_tokens) == (False, DEFAULT_DENY, None)


def test_an_allow_rule_allows_what_it_names() -> None:
    policy = compiled(allow("a", models=["m", "n"], limits={"max_tokens": 9}))
    assert policy.evaluate(ask()) == Decision(True, "a", "rule a allows this", 9)
    assert policy.evaluate(ask(model="n")).allowed
    assert not policy.evaluate(ask(model="o")).allowed
    assert not policy.evaluate(ask(model="*")).allowed


def test_a_star_covers_every_role_and_model() -> None:
    policy = compiled(allow("a", subjects={"roles": ["*"]}))
    assert policy.evaluate(ask(roles=(), model="anything")).allowed


def test_deny_overrides_wherever_it_stands() -> None:
    for rules in ((allow("a"), deny("d")), (deny("d"), allow("a"))):
        assert compiled(*rules).evaluate(ask()) == Decision(False, "d", "rule d denies this", None)


def test_a_deny_rule_is_about_what_it_names() -> None:
    policy = compiled(
        allow("a", actions=list(MODEL_ACTIONS)),
        deny("d", subjects={"roles": ["intern"]}, actions=["infer"], models=["x"]),
    )
    assert policy.evaluate(ask()).allowed
    assert policy.evaluate(ask(roles=("analyst", "intern"), model="x")).allowed
    assert policy.evaluate(ask("infer", "x")).allowed
    assert not policy.evaluate(ask("infer", "x", roles=("analyst", "intern"))).allowed


def test_the_smallest_limit_of_all_matching_rules_holds() -> None:
    policy = compiled(
        allow("wide", limits={"max_tokens": 100}),
        allow("free"),
        allow("tight", limits={"max_tokens": 10}, when="request.stream"),
    )
    assert policy.evaluate(ask()) == Decision(True, "wide", "rule wide allows this", 100)
    assert policy.evaluate(ask(stream=True)).max_tokens == 10
    assert compiled(allow("free")).evaluate(ask()).max_tokens is None


@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_an_error_denies_with_its_rule_and_reason(effect: str) -> None:
    broken = allow("broken", when=FAILS) if effect == "allow" else deny("broken", when=FAILS)
    decision = compiled(allow("a"), broken).evaluate(ask(max_tokens=5))
    assert decision == Decision(
        False, "broken", "the condition of rule broken failed: division by zero", None
    )


def test_an_error_is_not_reached_when_its_rule_does_not_fit() -> None:
    policy = compiled(allow("a"), allow("broken", when=FAILS, models=["other"]))
    assert policy.evaluate(ask()).allowed


def test_a_decision_names_the_rules_that_matched() -> None:
    policy = compiled(
        allow("a"), allow("b", when="request.stream"), allow("c"), deny("d", when="false")
    )
    assert policy.evaluate(ask()).matched == ("a", "c")
    assert policy.evaluate(ask(stream=True)).matched == ("a", "b", "c")


def test_too_many_roles_deny() -> None:
    policy = compiled(allow("a"))
    assert policy.evaluate(ask(roles=["analyst"] * MAX_ROLES)).allowed
    assert not policy.evaluate(ask(roles=["analyst"] * (MAX_ROLES + 1))).allowed


def test_rules_of_several_documents_apply_together() -> None:
    first, second = (json.dumps(document(rule)) for rule in (allow("a"), deny("d")))
    assert not compile_pack(pack_of(first, second)).evaluate(ask()).allowed


def test_a_pack_without_a_policy_is_refused() -> None:
    with pytest.raises(PolicyInvalid, match="no policy document"):
        compile_pack(Pack("p", "1", {"README.md": "hello"}))


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.text()),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_evaluate_never_raises_and_garbage_is_never_allowed(data: st.DataObject) -> None:
    policy = compiled(
        allow("a", when="request.data_class != 'x' && request.max_tokens < 10"),
        deny("d", when="request.prompt_bytes > 5 || subject.roles.exists(r, r == 'out')"),
    )
    fields = Request.__dataclass_fields__
    request = Request(**{name: data.draw(ANYTHING, label=name) for name in fields})
    decision = policy.evaluate(request)
    assert not decision.allowed
    assert decision.max_tokens is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["true", "false", FAILS])), max_size=8),
)
def test_the_decision_follows_from_the_rules(rules: list[tuple[bool, str]]) -> None:
    """Against the definition itself: allowed iff some allow holds and nothing denies or fails."""
    built = [
        (allow if allows else deny)(f"r{i}", when=when) for i, (allows, when) in enumerate(rules)
    ] or [deny("r0", when="false")]
    decision = compiled(*built).evaluate(ask(max_tokens=5))
    conditions = [when for _, when in rules]
    holds = [allows for allows, when in rules if when == "true"]
    expected = True in holds and False not in holds and FAILS not in conditions
    assert decision.allowed is expected


def test_threads_share_a_policy() -> None:
    policy = compiled(
        allow("a", when="request.message_count % 3 == 0", limits={"max_tokens": 7}),
        deny("d", when="request.message_count % 5 == 0"),
    )

    def work(start: int) -> list[tuple[bool, str]]:
        decisions = (policy.evaluate(ask(message_count=n)) for n in range(start, start + 300))
        return [(decision.allowed, decision.rule) for decision in decisions]

    def expected(n: int) -> tuple[bool, str]:
        if n % 5 == 0:
            return False, "d"
        return (True, "a") if n % 3 == 0 else (False, DEFAULT_DENY)

    with ThreadPoolExecutor(8) as pool:
        for start, answers in zip(range(0, 80, 10), pool.map(work, range(0, 80, 10)), strict=True):
            assert answers == [expected(n) for n in range(start, start + 300)]


def test_a_policy_cannot_be_changed() -> None:
    policy = compiled(allow("a"))
    with pytest.raises(AttributeError):
        cast(Any, policy).extra = 1
    with pytest.raises(AttributeError):
        cast(Any, policy.rules[0]).effect = "deny"
