"""Explanations: every rule that was about a request, with its terms; a caller's words only on
request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.model import UNBOUNDED, Facts, Request
from exclave_policy.recorded import explained, read
from exclave_policy.workbench.explain import as_json, explain, explain_recorded, told
from exclave_testing.policies import allow, compiled, deny

POLICY = compiled(
    allow("a", when='request.model == "m" && (request.stream || run.workflow != "night")'),
    deny("broken", when="1 / request.message_count > 5"),
    deny("other", models=["x"]),
    deny("watched", mode="audit", when='"lookup" in request.tools'),
)
REQUEST = Request(
    "key-1", ("analyst",), "chat", "m", message_count=1, workflow="private", tools=("lookup", "tt")
)


def test_every_rule_about_the_request_is_explained() -> None:
    found = explain(POLICY, REQUEST)
    assert found.decision.rule == "a"
    assert {rule.id: rule.matched for rule in found.rules} == {
        "broken": False,
        "watched": True,
        "a": True,
    }
    terms = {term.source: (term.value, dict(term.names)) for term in found.rules[-1].terms}
    assert terms == {
        'request.model == "m"': (True, {"request.model": '"m"'}),
        "request.stream": (False, {"request.stream": "false"}),
        'run.workflow != "night"': (True, {"run.workflow": "<text of 7>"}),
    }
    assert found.rules[1].terms[0].names == {"request.tools": '["lookup", <text of 2>]'}


def test_in_full_the_callers_words_are_shown() -> None:
    lines = "\n".join(told(explain(POLICY, REQUEST, full=True).rules))
    assert 'run.workflow = "private"' in lines
    assert "deny watched: matched, watched only" in lines


def test_a_condition_that_failed_says_so() -> None:
    found = explain(POLICY, Request("k", ("analyst",), "chat", "m"))
    assert (found.decision.allowed, found.decision.rule) == (False, "broken")
    assert "deny broken: failed, which denies" in list(told(found.rules))
    assert found.rules[0].terms[0].value is None
    assert json.loads(json.dumps(as_json(found.rules)))[0]["matched"] is None


def test_the_record_explains_what_matched_without_the_pack() -> None:
    decision = POLICY.evaluate(REQUEST)
    kept = read(json.loads(json.dumps(explained(POLICY, REQUEST, decision, frozenset()))))
    assert kept is not None
    rules = explain_recorded(kept)
    assert [rule.id for rule in rules] == ["a", "watched"]
    assert rules[0] == explain(POLICY, REQUEST).rules[-1]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        {"names": {}, "rules": [["a"]]},
        {"names": {"time.hour": "x"}, "rules": []},
        {"names": {"request.stream": 1}, "rules": []},
        {"names": {"subject.roles": [1]}, "rules": []},
        {"names": {"time.hour": True}, "rules": []},
        {"names": [], "rules": []},
    ],
)
def test_what_no_record_of_ours_keeps_is_not_read(value: object) -> None:
    assert read(value) is None


TEXTS = st.text(max_size=5)
REQUESTS = st.builds(
    Request,
    subject=TEXTS,
    roles=st.lists(TEXTS, max_size=3).map(tuple),
    action=st.sampled_from(["chat", "call_tool", "use_endpoint", "use_secret"]),
    model=TEXTS,
    data_class=TEXTS,
    max_tokens=st.none() | st.integers(0, UNBOUNDED - 1),
    stream=st.booleans(),
    schema=st.booleans(),
    prompt_bytes=st.integers(0, 2**62),
    tools=st.lists(TEXTS, max_size=2).map(tuple),
    facts=st.builds(Facts, runtime=TEXTS, remote=st.booleans()),
    workflow=TEXTS,
    year=st.integers(1970, 9999),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(REQUESTS, TEXTS)
def test_the_record_gives_the_request_back(request: Request, resource: str) -> None:
    from dataclasses import replace

    if request.action != "chat":
        request = replace(request, resource=resource)
    kept = read(
        json.loads(json.dumps(explained(POLICY, request, POLICY.evaluate(request), frozenset())))
    )
    assert kept is not None
    assert kept.request() == request
