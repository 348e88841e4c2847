"""Lints: each says only what is certain, and names the place and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Request
from exclave_policy.workbench.lint import lint
from exclave_testing.policies import allow, deny, document, pack_of


def policy(*rules: dict[str, Any], others: tuple[dict[str, Any], ...] = ()) -> CompiledPolicy:
    texts = [json.dumps(each) for each in (document(*rules), *others)]
    return compile_pack(pack_of(*texts))


def said(*rules: dict[str, Any], others: tuple[dict[str, Any], ...] = ()) -> list[str]:
    return [problem.message for problem in lint(policy(*rules, others=others))]


def head(kind: str, spec: dict[str, Any], name: str = "it") -> dict[str, Any]:
    metadata = {"name": name, "version": "1"}
    return {"apiVersion": "exclave.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}


OPEN = {"data_classes": ["*"]}


@pytest.mark.parametrize(
    "when",
    [
        "time.hour > 20 && time.hour < 6",
        'request.data_class == "a" && request.data_class == "b"',
        "request.stream && !request.stream",
        'request.action == "embed"',
        '!("analyst" in subject.roles)',
        'request.model == "a" && request.model in ["b", "c"]',
        "request.max_tokens < 5 && request.max_tokens > 5",
        "false",
    ],
)
def test_a_rule_that_can_never_match(when: str) -> None:
    assert said(allow("a", when=when, **OPEN)) == ["rule a can never match"]


@pytest.mark.parametrize(
    "when",
    [
        "time.hour > 20 || time.hour < 6",
        'request.data_class == "a"',
        '!("reviewer" in subject.roles)',
        "time.hour * 2 == 3",
        'request.model.startsWith("x") && request.model == "y"',
        "size(subject.roles) > 3",
        "time.hour == 5 && time.weekday == 3",
        '"reviewer" in subject.roles && "analyst" in subject.roles',
    ],
)
def test_nothing_is_said_of_what_may_match_or_cannot_be_told(when: str) -> None:
    assert said(allow("a", when=when, **OPEN)) == []


def test_what_its_own_names_exclude_can_never_match() -> None:
    rule = allow("a", models=["m"], data_classes=["x"], when='request.data_class == "y"')
    assert said(rule) == ["rule a can never match"]


@pytest.mark.parametrize(
    "denies",
    [
        deny("d"),
        deny("d", subjects={"roles": ["analyst", "other"]}, actions=["chat"]),
        deny("d", when="request.stream"),
        deny("d", when="request.stream || time.hour < 6"),
        deny("d", when="request.stream && time.hour < 30 - 1"),
    ],
)
def test_an_allow_that_a_deny_shadows(denies: dict[str, Any]) -> None:
    found = said(allow("a", when="request.stream", **OPEN), denies)
    expected = ["rule a never allows: rule d denies all of it"]
    assert found == ([] if "30" in denies.get("when", "") else expected)


@pytest.mark.parametrize(
    "denies",
    [
        deny("d", models=["other"]),
        deny("d", data_classes=["secret"]),
        deny("d", mode="audit"),
        deny("d", when="time.hour < 6"),
        deny("d", actions=["call_tool"], tools=["rm"]),
    ],
)
def test_a_narrower_deny_shadows_nothing(denies: dict[str, Any]) -> None:
    assert said(allow("a", **OPEN), denies) == []


def test_a_deny_of_one_tool_shadows_the_allow_of_that_tool() -> None:
    tool = allow("t", actions=["call_tool"], tools=["rm"], **OPEN)
    no = deny("d", actions=["call_tool"], tools=["rm", "dd"])
    assert said(tool, no) == ["rule t never allows: rule d denies all of it"]
    assert said(tool | {"tools": ["*"]}, no) == []


def test_an_allow_without_a_word_about_its_data() -> None:
    message = "rule a allows without saying which data it is for"
    assert said(allow("a")) == [message]
    assert said(allow("a", when='request.data_class != "secret"')) == []


def test_a_budget_larger_than_its_parent() -> None:
    flow = {"name": "w", "tokens": 900, "per": "day", "run": {"tokens": 1000}}
    team = {"name": "t", "roles": ["*"], "tokens": 500, "per": "day", "workflows": [flow]}
    spec = {"tenant": {"tokens": 400, "per": "day"}, "teams": [team]}
    assert sorted(said(allow("a", **OPEN), others=(head("Budget", spec),))) == [
        "a run of w may spend more tokens than its workflow",
        "team t may spend more tokens than the tenant",
        "workflow w may spend more tokens than team t",
    ]


def test_a_route_that_no_rule_allows() -> None:
    route = head("Route", {"actions": ["chat"], "targets": [{"model": "m"}, {"model": "n"}]}, "r")
    rules = allow("a", models=["r", "m"], **OPEN)
    assert said(rules, others=(route,)) == ["no rule allows chat on n"]


def test_an_approval_that_nobody_can_give() -> None:
    approval = head("Approval", {"roles": ["boss"], "told": "wait"}, "four-eyes")
    rule = allow("a", obligations={"approvals": ["four-eyes"]}, **OPEN)
    found = said(rule, others=(approval,))
    assert found == ["approval four-eyes waits for a role that no rule and no list names"]


def test_a_document_that_nobody_asks_for() -> None:
    pattern = [{"pattern": {"must": ["x"]}}]
    unused = head("Validator", {"stage": "output", "checks": pattern}, "v")
    assert said(allow("a", **OPEN), others=(unused,)) == ["no rule obliges to validator v"]


TERMS = st.sampled_from(
    [
        "request.stream",
        "!request.stream",
        "time.hour < 6",
        "time.hour >= 5",
        'request.data_class == "x"',
        'request.data_class != "x"',
        'request.data_class in ["x", ""]',
        '"analyst" in subject.roles',
        '!("boss" in subject.roles)',
        "request.message_count == 0",
    ]
)
CONDITIONS = st.lists(TERMS, min_size=1, max_size=4).flatmap(
    lambda terms: st.sampled_from([" && ".join(terms), " || ".join(terms)])
)
REQUESTS = st.builds(
    Request,
    subject=st.just("s"),
    roles=st.sampled_from([("analyst",), ("analyst", "boss"), ("analyst", "x")]),
    action=st.just("chat"),
    model=st.just("m"),
    data_class=st.sampled_from(["", "x", "y"]),
    stream=st.booleans(),
    message_count=st.integers(0, 2),
    hour=st.integers(0, 23),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CONDITIONS, CONDITIONS, st.lists(REQUESTS, min_size=5, max_size=5))
def test_what_is_said_to_be_impossible_never_happens(
    when: str, denied: str, requests: list[Request]
) -> None:
    rules = policy(allow("a", when=when, **OPEN), deny("d", when=denied))
    messages = " ".join(problem.message for problem in lint(rules))
    for request in requests:
        decision = rules.evaluate(request)
        if "rule a " in messages:
            assert not decision.allowed
        if "rule d can never" in messages:
            assert decision.rule != "d"
