"""Cases: failures say what came, coverage names what was missed, empty cases are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exclave_policy.errors import PolicyInvalid
from exclave_policy.workbench.cases import run_cases
from exclave_testing.policies import allow, deny, document, pack_of

POLICY = json.dumps(
    document(
        allow("a", limits={"max_tokens": 9}),
        allow("b", actions=["embed"], when="request.stream"),
        deny("d", when="request.data_class == 'secret'"),
    )
)


def case(name: str = "c", expect: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """A case of an analyst who chats, expected to be allowed by rule a."""
    request = {"roles": ["analyst"], "action": "chat", "model": "m"} | given
    return {"name": name, "given": request, "expect": expect or {"allowed": True, "rule": "a"}}


def faults(cases: Any) -> list[str]:
    """Why these cases are refused."""
    text = cases if isinstance(cases, str) else json.dumps(cases)
    with pytest.raises(PolicyInvalid) as caught:
        run_cases(pack_of(POLICY, cases=text))
    return [str(problem) for problem in caught.value.problems]


def test_cases_that_pass_and_reach_every_rule() -> None:
    unlimited = {"allowed": True, "rule": "b", "max_tokens": None}
    cases = [
        case("allowed", {"allowed": True, "rule": "a", "max_tokens": 9}),
        case("secret", {"allowed": False, "rule": "d"}, data_class="secret"),
        case("embed", unlimited, action="embed", stream=True),
        case("nobody", {"allowed": False, "rule": "default-deny"}, roles=[]),
    ]
    report = run_cases(pack_of(POLICY, cases=json.dumps(cases)))
    assert report.ok
    assert report.complete
    assert (report.total, report.passed, report.coverage) == (4, 4, 1.0)
    assert str(report) == "test 1: 4 of 4 cases passed, 3 of 3 rules reached"


def test_rules_that_no_case_reaches_are_named() -> None:
    report = run_cases(pack_of(POLICY, cases=json.dumps([case()])))
    assert report.ok
    assert not report.complete
    assert report.covered == ("a",)
    assert report.uncovered == ("d", "b")
    assert "no case reaches rule b" in str(report)


def test_a_rule_is_reached_where_it_matches_though_another_one_decides() -> None:
    policy = json.dumps(document(allow("first"), allow("second")))
    cases = json.dumps([case(expect={"allowed": True, "rule": "first"})])
    assert run_cases(pack_of(policy, cases=cases)).covered == ("first", "second")


@pytest.mark.parametrize(
    ("expect", "text"),
    [
        (
            {"allowed": False, "rule": "default-deny"},
            "expected denied by default-deny, but it was allowed by a (rule a allows this)",
        ),
        ({"allowed": True, "rule": "b"}, "expected allowed by b, but it was allowed by a"),
        ({"allowed": True, "rule": "a", "max_tokens": 8}, "expected max_tokens 8, found 9"),
        ({"allowed": True, "rule": "a", "max_tokens": None}, "max_tokens without limit, found 9"),
    ],
)
def test_a_failure_says_what_was_expected_and_what_came(expect: dict[str, Any], text: str) -> None:
    report = run_cases(pack_of(POLICY, cases=json.dumps([case(expect=expect)])))
    assert not report.ok
    assert [failure.name for failure in report.failures] == ["c"]
    assert text in str(report.failures[0])
    assert str(report.failures[0]).startswith("cases.yaml:1: c: ")


def test_every_field_of_a_request_can_be_given() -> None:
    given = {
        "subject": "key-9",
        "roles": ["r"],
        "action": "embed",
        "model": "org/m:7",
        "data_class": "x",
        "max_tokens": 5,
        "stream": True,
        "message_count": 2,
        "prompt_bytes": 3,
        "hour": 4,
        "weekday": 6,
    }
    names = {"subject": "subject.id", "hour": "time.hour", "weekday": "time.weekday"}
    terms = [
        f"{names.get(name, f'request.{name}')} == {json.dumps(value)}"
        for name, value in given.items()
        if name != "roles"
    ]
    when = " && ".join([*terms, "subject.roles == ['r']"])
    policy = json.dumps(document(deny("all", when=when)))
    one = case("all", {"allowed": False, "rule": "all"}, **given)
    assert run_cases(pack_of(policy, cases=json.dumps([one]))).complete


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "the list is empty"),
        ({"cases": []}, "the list is empty"),
        ("", "the document is empty"),
        ({}, "field 'cases' is missing"),
        ("just words", "expected a list of cases"),
        (["x"], "expected fields, found text"),
        ([case(), case()], "two cases have the same name"),
        ([case(model="m", modle="n")], "unknown field 'modle' (did you mean 'model'?)"),
        ([case(action="talk")], "'talk' is not allowed here"),
        ([case(expect={"allowed": True, "rule": "aa"})], "no rule has the id 'aa'"),
        ([case(expect={"rule": "a"})], "field 'allowed' is missing"),
        ([case(expect={"allowed": "yes", "rule": "a"})], "expected true or false, found text"),
        ([case(hour=24)], "[0].given.hour: the number is out of range (from 0 to 23)"),
        ([{"name": "x"}], "field 'given' is missing"),
        ("- {name: x, given: yes, expect: no}", "expected fields"),
    ],
)
def test_malformed_cases(cases: Any, message: str) -> None:
    assert any(message in fault for fault in faults(cases)), faults(cases)


def test_a_pack_without_cases_is_refused() -> None:
    with pytest.raises(PolicyInvalid, match="the pack has no cases"):
        run_cases(pack_of(POLICY))


def test_cases_may_stand_under_a_field() -> None:
    assert run_cases(pack_of(POLICY, cases=json.dumps({"cases": [case()]}))).ok


# --- what else a case can say ---------------------------------------------------------------------

WATCHED = json.dumps(
    document(
        allow("a", data_classes=["", "public"]),
        allow("t", actions=["call_tool"], tools=["lookup"]),
        {"id": "short", "effect": "oblige", "limits": {"max_tokens": 5}},
        deny("d", mode="audit", when='run.workflow == "night" && (time.day > 20 || model.remote)'),
    )
)


def watched(*cases: dict[str, Any]) -> Any:
    return run_cases(pack_of(WATCHED, cases=json.dumps(cases)))


def test_a_case_names_tools_audited_rules_and_everything_that_matched() -> None:
    would = {"allowed": False, "rule": "d"}
    report = watched(
        case(
            "night",
            {"allowed": True, "rule": "a", "matched": ["a", "short"], "would": would},
            workflow="night",
            day=21,
        ),
        case("tool", {"allowed": True, "rule": "t"}, action="call_tool", tool="lookup"),
        case("other", {"allowed": False, "rule": "default-deny"}, action="call_tool", tool="rm"),
        case("remote", {"allowed": True, "rule": "a"}, workflow="night", remote=True),
    )
    assert report.ok, str(report)
    assert report.complete
    missed = [(branch.term, branch.value) for branch in report.missed]
    assert missed == []
    assert report.branch_coverage == 1.0


@pytest.mark.parametrize(
    ("expect", "text"),
    [
        ({"matched": ["a"]}, "expected the rules a to match, but it was a, short"),
        ({"would": {"allowed": True, "rule": "a"}}, "expected an audited rule to match"),
        ({"obligations": {"validators": ["v"]}}, "expected validators v, found none"),
    ],
)
def test_a_failure_names_what_else_was_not_as_expected(expect: dict[str, Any], text: str) -> None:
    report = watched(case(expect={"allowed": True, "rule": "a"} | expect))
    assert text in report.failures[0].text


def test_branches_that_no_case_takes_are_named() -> None:
    report = watched(case("night", {"allowed": True, "rule": "a"}, workflow="night"))
    assert report.branches == 6
    assert [(branch.term, branch.value) for branch in report.missed] == [
        ('run.workflow == "night"', False),
        ("time.day > 20", True),
        ("model.remote", True),
    ]
    assert "rule d: never true: model.remote" in str(report.missed[-1])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tool": "lookup"}, "chat is about no tool"),
        ({"action": "call_tool"}, "field 'tool' is missing"),
        ({"action": "use_endpoint", "endpoint": "HTTPS://X"}, "not a valid name"),
        ({"minute": 60}, "from 0 to 59"),
        ({"priority": "soon"}, "'soon' is not allowed here"),
        ({"data_class": "a b"}, "not a valid name"),
    ],
)
def test_a_request_that_could_not_be_is_refused(given: dict[str, Any], text: str) -> None:
    assert any(text in fault for fault in faults([case(**given)]))
