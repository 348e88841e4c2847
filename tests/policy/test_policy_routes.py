"""Documents of kind Route: every fault has its place, and the published schema agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exclave_policy
from exclave_policy.compile import compile_pack
from exclave_policy.document import KINDS, read_document
from exclave_policy.kinds.routes import BreakerRule, Otherwise, Retry, Route, problems_of
from exclave_policy.pack import combine
from exclave_policy.source import Report
from exclave_testing.damage import damaged
from exclave_testing.policies import allow, document, pack_of, problems

SCHEMAS = Path(exclave_policy.__file__).parent / "schemas"
VALIDATOR = jsonschema_rs.validator_for(json.loads((SCHEMAS / "route.v1.schema.json").read_text()))
POLICY = json.dumps(document(allow("a")))

TEXT = """apiVersion: exclave.dev/v1
kind: Route
metadata: {name: best, version: "1"}
spec:
  actions: [chat]
  targets:
    - model: cloud
      when: request.data_class == "public"
      limits: {max_latency_ms: 800, max_cost: "0.60", currency: EUR, min_confidence: "0.7"}
      timeout_ms: 5000
      hedge_after_ms: 300
    - model: local
  retry: {ratio: "0.1", burst: 5, attempts: 3}
  breaker: {window_seconds: 30, min_requests: 5, error_rate: "0.3", latency_ms: 900,
            invalid_rate: "0.2", open_seconds: 10}
  otherwise: {answer: "Please call."}
"""


def read(text: str) -> Route:
    route = read_document(text.encode(), report := Report("policy-1.yaml"))
    assert isinstance(route, Route), report.all()
    return route


def test_a_full_document() -> None:
    route = read(TEXT)
    assert (route.name, route.actions) == ("best", frozenset({"chat"}))
    first, second = route.targets
    assert (first.model, first.timeout_ms, first.hedge_after_ms) == ("cloud", 5000, 300)
    assert (first.limits.latency_ms, first.limits.cost_micro) == (800, 600_000)
    assert (first.limits.currency, first.limits.confidence) == ("EUR", 0.7)
    assert first.when is not None
    assert (second.when, second.timeout_ms, second.hedge_after_ms) == (None, None, None)
    assert route.retry == Retry(0.1, 5, 3)
    assert route.breaker == BreakerRule(30, 5, 0.3, 900, 0.2, 10)
    assert route.otherwise == Otherwise(answer="Please call.")


def test_what_is_left_out_has_its_default() -> None:
    route = read(TEXT[: TEXT.index("  retry:")])
    assert (route.retry, route.breaker) == (Retry(), BreakerRule())
    assert route.otherwise == Otherwise()
    assert read(TEXT.replace('{answer: "Please call."}', "refuse")).otherwise == Otherwise()
    assert read(TEXT.replace("answer:", "person:")).otherwise == Otherwise(person="Please call.")


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "message"),
    [
        ("model: cloud", "modle: cloud", 7, "spec.targets[0]", "unknown field 'modle'"),
        ("[chat]", "[talk]", 5, "spec.actions[0]", "'talk' is not allowed here"),
        ("[chat]", "[chat, embed]", 16, "spec.otherwise", "only chat and complete"),
        ('"0.60"', "0.60", 9, "spec.targets[0].limits.max_cost", "not a decimal number"),
        (", currency: EUR", "", 9, "spec.targets[0].limits", "belong together"),
        ("EUR", "eur", 9, "spec.targets[0].limits.currency", "not a currency"),
        ('"0.7"', '"1.2"', 9, "spec.targets[0].limits.min_confidence", "not a decimal number"),
        ("5000", "0", 10, "spec.targets[0].timeout_ms", "out of range"),
        ("data_class ==", "data_clas ==", 8, "spec.targets[0].when", "not a declared name"),
        ("model: local", "model: local\n      hedge_after_ms: 5", 13, "", "nobody beside it"),
        ("burst: 5", "burst: -1", 13, "spec.retry.burst", "out of range"),
        ("attempts: 3", "attempts: 0", 13, "spec.retry.attempts", "out of range"),
        ("open_seconds: 10", "open_seconds: 0", 15, "spec.breaker.open_seconds", "out of range"),
        ('{answer: "Please call."}', "reject", 16, "spec.otherwise", "not a way to answer"),
        ('{answer: "Please call."}', "{}", 16, "spec.otherwise", "exactly one answer"),
        ('answer: "Please call."', 'answer: ""', 16, "spec.otherwise.answer", "is empty"),
        ('"Please call."', '"a", person: "b"', 16, "spec.otherwise", "exactly one answer"),
        ("name: best", "name: a b", 3, "metadata.name", "not a valid name"),
        ("kind: Route", "kind: Rout", 2, "kind", "not allowed here"),
    ],
)
def test_faults(old: str, new: str, line: int, path: str, message: str) -> None:
    assert old in TEXT
    found = problems(POLICY, TEXT.replace(old, new, 1))
    assert any(
        problem.line == line and message in problem.message and path in problem.path
        for problem in found
    ), list(map(str, found))


def test_names_of_routes_are_theirs_alone() -> None:
    again = TEXT.replace("model: local", "model: best")
    found = [str(problem) for problem in problems(POLICY, TEXT, again)]
    assert any("route 'best' is defined in policy-1.yaml already" in each for each in found)
    assert any("target 'best' is a route" in each for each in found)


def test_a_pack_of_other_documents_only_is_not_a_policy() -> None:
    (found,) = problems(TEXT)
    assert "no policy document" in found.message


@pytest.mark.parametrize("kind", ["Budget", "Cache"])
def test_a_pack_has_one_budget_and_one_cache(kind: str) -> None:
    spec: dict[str, Any] = {"tenant": {"tokens": 5, "per": "day"}}
    if kind == "Cache":
        spec = {"models": ["*"], "data_classes": [""], "ttl_seconds": 5}
    text = json.dumps(document(kind=kind, spec=spec))
    policy = compile_pack(pack_of(POLICY, text))
    assert (policy.budget is not None, policy.cache is not None) == (
        kind == "Budget",
        kind == "Cache",
    )
    (found,) = problems(POLICY, text, text)
    assert (found.file, found.message) == (
        "policy-2.yaml",
        f"a second document of kind {kind}",
    )
    packs = [pack_of(POLICY, text), pack_of(POLICY.replace('"a"', '"b"'), text)]
    object.__setattr__(packs[1], "name", "other")
    with pytest.raises(Exception, match=f"a second document of kind {kind}"):
        compile_pack(combine(packs, "both"))


def test_every_kind_is_compiled_into_the_policy() -> None:
    policy = compile_pack(pack_of(POLICY, TEXT))
    assert list(policy.routes) == ["best"]
    assert (policy.budget, policy.cache) == (None, None)
    assert len(KINDS) == 10
    assert {path.name.split(".")[0].capitalize() for path in SCHEMAS.iterdir()} == set(KINDS)


def test_routes_must_fit_the_release() -> None:
    routes = {"best": read(TEXT)}
    chat, embed = frozenset({"chat"}), frozenset({"embed"})
    assert problems_of(routes, {"cloud": chat, "local": chat}) == []
    assert problems_of(routes, {"best": chat, "cloud": embed}) == [
        "route best has the name of a model of the release",
        "route best: model cloud does not serve chat",
        "route best: the release has no model local",
    ]


# --- the schema ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "apiVersion": "exclave.dev/v1",
    "kind": "Route",
    "metadata": {"name": "best", "version": "1", "description": "x"},
    "spec": {
        "actions": ["chat", "complete"],
        "targets": [
            {
                "model": "a",
                "when": "request.stream",
                "limits": {
                    "max_latency_ms": 5,
                    "max_cost": "1.5",
                    "currency": "EUR",
                    "min_confidence": "0.5",
                },
                "timeout_ms": 5,
                "hedge_after_ms": 5,
            },
            {"model": "b"},
        ],
        "retry": {"ratio": "0.5", "burst": 1, "attempts": 2},
        "breaker": {"min_requests": 1, "error_rate": "1", "open_seconds": 1},
        "otherwise": {"answer": "x"},
    },
}


def both_say(value: Any) -> tuple[bool, bool]:
    """(the schema admits it, the parser admits it); what only the parser can see is left out."""
    faults = [
        str(problem)
        for problem in problems(POLICY, json.dumps(value))
        if problem.file == "policy-1.yaml"
    ]
    shape = ("expected a condition", "the condition is empty")
    beyond = [
        fault
        for fault in faults
        if "nobody beside it" in fault
        or "is a route" in fault
        or (".when:" in fault and not any(each in fault for each in shape))
    ]
    return VALIDATOR.is_valid(value), len(faults) == len(beyond)


def test_both_admit_a_full_document() -> None:
    assert both_say(FULL) == (True, True)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4_000_000),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != int(x)),
    st.sampled_from(["", "*", "chat", "refuse", "a", "A b", "0.5", "1", "1.1", "01", "x" * 5000]),
    st.sampled_from(["EUR", "eur", "0.1234567", "request.stream", "1000000000"]),
    st.sampled_from([[], ["chat"], ["chat", "embed"], ["chat", "chat"], [1], {}, [[]]]),
    st.sampled_from([{"answer": "x"}, {"person": "y"}, {"answer": "x", "person": "y"}]),
    st.sampled_from([[{"model": "a"}] * 2, [{"model": "a"}] * 17, {"currency": "EUR"}]),
)
NAMES = st.sampled_from(
    ["model", "limits", "when", "extra", "retry", "otherwise", "max_cost", "currency", "person"]
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data())
def test_they_agree_on_damaged_documents(data: st.DataObject) -> None:
    value = damaged(data, FULL, odd=ODD, names=NAMES)
    if value.get("kind") != "Route":
        return  # another kind of document has another schema
    schema, parser = both_say(value)
    assert schema == parser, list(map(str, problems(POLICY, json.dumps(value))))
