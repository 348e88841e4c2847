"""Conditions: what is admitted, what is refused by name, and that failing is never holding."""

from __future__ import annotations

import pytest

from exclave_policy.admission import MAX_DEPTH, MAX_OPERATORS, MAX_SOURCE, MAX_TOKENS
from exclave_policy.conditions import ConditionFailed, ConditionInvalid, bind, compile_condition
from exclave_policy.schema import activation
from exclave_testing.policies import ask


def holds(source: str, **fields: object) -> bool:
    """Compile and evaluate against one request."""
    return compile_condition(source).holds(bind(activation(ask(**fields))))  # type: ignore[arg-type] # tests pass any field


def refusal(source: str) -> str:
    """Why a condition is refused: messages and fixes."""
    with pytest.raises(ConditionInvalid) as caught:
        compile_condition(source)
    return "; ".join(f"{f.message} ({f.fix})" for f in caught.value.faults)


@pytest.mark.parametrize(
    ("source", "fields", "expected"),
    [
        ("request.action == 'chat'", {}, True),
        ("request.model != 'm'", {}, False),
        ("request.data_class == ''", {}, True),
        ("request.data_class in ['a', 'b']", {"data_class": "b"}, True),
        ("'analyst' in subject.roles", {}, True),
        ("'root' in subject.roles", {}, False),
        ("subject.id == 'key-1'", {}, True),
        ("request.max_tokens > 1000", {"max_tokens": 1001}, True),
        ("request.max_tokens > 1000", {"max_tokens": 1000}, False),
        ("request.max_tokens > 1000", {"max_tokens": None}, True),
        ("request.max_tokens == 0", {"max_tokens": None}, False),
        ("request.stream", {"stream": True}, True),
        ("!request.stream && request.message_count == 3", {"message_count": 3}, True),
        ("request.prompt_bytes / 1024 >= 2", {"prompt_bytes": 2048}, True),
        ("time.hour >= 22 || time.hour < 6", {"hour": 23}, True),
        ("time.weekday < 5 ? true : false", {"weekday": 6}, False),
        ("subject.roles[0].startsWith('ana')", {}, True),
        ("size(subject.roles) == 2", {"roles": ("a", "b")}, True),
        ("subject.roles.size() == 1", {}, True),
        ("subject.roles.all(r, r.endsWith('t'))", {}, True),
        ("subject.roles.exists(r, r == 'b')", {"roles": ("a", "b")}, True),
        ("subject.roles.exists_one(x, x.contains('n'))", {}, True),
        ("request.model.matches(r'^smollm\\d$')", {"model": "smollm2"}, True),
        ("request.model.matches('^(a+)+$')", {"model": "a" * 5000 + "b"}, False),
        ("request\n  . action == 'chat'", {}, True),
        ('request.data_class == "\\u00e9"', {"data_class": "\u00e9"}, True),
        ("request.action == 'a\\'b' || true", {}, True),
    ],
)
def test_admitted(source: str, fields: dict[str, object], expected: bool) -> None:
    assert holds(source, **fields) is expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("request.modle == 'x'", "'request.modle' is not a declared name (did you mean"),
        ("request == 'x'", "'request' is not a declared name"),
        ("subject.name == 'x'", "'subject.name' is not a declared name"),
        ("os.system('x')", "function 'system' is not admitted"),
        ("request.model == null", "'null' is not a declared name (no declared name is ever null)"),
        ("request.model == 1", "found no matching overload"),
        ("request.max_tokens < 1.5", "not a plain whole number"),
        ("request.max_tokens < 1e3", "not a plain whole number"),
        ("request.max_tokens == 1u", "not a plain whole number"),
        ("request.max_tokens == 0x10", "not a plain whole number"),
        ("request.max_tokens < .5", "not a plain whole number"),
        ("request.max_tokens == 9223372036854775808", "invalid int literal"),
        ("request.max_tokens", "of type int, not bool"),
        ("request.action", "of type string, not bool"),
        ("subject.roles", "not bool"),
        ("has(request.model)", "function 'has' is not admitted"),
        ("subject.roles.map(r, r) == []", "function 'map' is not admitted"),
        ("subject.roles.filter(r, true) == []", "function 'filter' is not admitted"),
        ("dyn(request.model) == 1", "function 'dyn' is not admitted"),
        ("type(request.model) == string", "function 'type' is not admitted"),
        ("int(request.model) == 1", "function 'int' is not admitted"),
        ("string(time.hour) == '1'", "function 'string' is not admitted"),
        ("timestamp('2030-01-01T00:00:00Z') == timestamp('')", "function 'timestamp'"),
        ("request.model.startswith('x')", "did you mean 'startsWith'?"),
        ("request.model.matches(subject.id)", "matches needs a literal pattern"),
        ("request.model.matches('a' + 'b')", "matches needs a literal pattern"),
        ("matches(request.model, 'a')", "matches needs a literal pattern"),
        ("request.model.matches('(a')", "the pattern is not a regular expression"),
        ("request.model.matches('(?=a)')", "the pattern is not a regular expression"),
        ("{'a': 1} == {}", "character U+007B is not admitted"),
        ("b'a' == b'a'", "bytes are not admitted"),
        ("rb'a' == b'a'", "bytes are not admitted"),
        ("'''a''' == 'a'", "a string in triple quotes is not admitted"),
        ("true // yes", "a comment is not admitted"),
        ("request.model == '\u0430'", "character U+0430 is not admitted here (in a string write"),
        ("r\u0435quest.model == 'a'", "character U+0435 is not admitted"),
        ("true; false", "character U+003B is not admitted"),
        ("`request.model` == 'a'", "character U+0060 is not admitted"),
        ("'a\n' == 'a'", "is not admitted here"),
        ("request.model == 'a", "character U+0027 is not admitted"),
        ("true &&", "Syntax error"),
        ("(true", "Syntax error"),
        ("true)", "Syntax error"),
        ("", "the condition is empty"),
        (" \n\t", "the condition is empty"),
        ("true\0", "character U+0000 is not admitted"),
        ("true == '\ud800'", "character U+D800 is not admitted"),
        ("subject.roles.all(r, true) && x == 'a'", "'x' is not a declared name"),
        ("[].all(a, true) && [].all(b, true) && [].all(c, true)", "more than 2 of all, exists"),
        ("subject.roles.all(request, request.id == '')", "is not a declared name"),
    ],
)
def test_refused(source: str, reason: str) -> None:
    assert reason in refusal(source)


def test_every_fault_is_listed() -> None:
    text = refusal("request.modle == 'x' && has(request.model) && time.hours == 1")
    assert "request.modle" in text
    assert "'has'" in text
    assert "'time.hour'?" in text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("request.max_tokens / request.message_count == 1", "division by zero"),
        ("request.max_tokens % request.message_count == 1", "division by zero"),
        ("subject.roles[7] == 'a'", "an index is past the end of its list"),
        ("request.max_tokens + 1 > 0", "a number grew too large"),
        ("subject.roles.all(a, subject.roles.all(b, a != 'z' && b != 'z'))", "too many steps"),
    ],
)
def test_failing_is_neither_true_nor_false(source: str, reason: str) -> None:
    roles = tuple(f"secret{i}" for i in range(2000)) if "all" in source else ("secret",)
    with pytest.raises(ConditionFailed) as caught:
        holds(source, roles=roles)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_or_absorbs_a_failing_side_as_in_cel() -> None:
    assert holds("subject.roles[7] == 'a' || true")
    assert not holds("subject.roles[7] == 'a' && false")


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "\ud800"},
        {"max_tokens": 2**63},
        {"max_tokens": "7"},
        {"message_count": None},
        {"roles": (1,)},
    ],
)
def test_values_without_a_cel_form_fail(fields: dict[str, object]) -> None:
    source = (
        "request.model == 'm' && request.max_tokens > 0 && request.message_count < 9"
        " && subject.roles[0] == 'analyst'"
    )
    with pytest.raises(ConditionFailed):
        holds(source, **fields)


def test_bounds() -> None:
    assert "bytes are too many" in refusal("'" + "a" * MAX_SOURCE + "' == ''")
    assert "tokens are too many" in refusal("true" + "||true" * (MAX_TOKENS // 2))
    assert holds("false" + "||true" * (MAX_TOKENS // 2 - 1))
    assert "brackets nest deeper" in refusal("(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1))
    assert holds("(" * MAX_DEPTH + "true" + ")" * MAX_DEPTH)
    long = "request.max_tokens" + " + 1" * (MAX_OPERATORS + 1) + " > 0"
    assert "operators in a row" in refusal(long)
    assert holds("0" + " + 1" * (MAX_OPERATORS - 1) + f" == {MAX_OPERATORS - 1}")
    assert holds(" || ".join(["request.max_tokens == 1"] * MAX_OPERATORS * 3 + ["true"]))
    assert "operators in a row" in refusal("!" * 500 + "true")
    assert "operators in a row" in refusal("subject.roles" + "[0]" * 150 + " == ''")
    assert "operators in a row" in refusal("true ? true : " * 100 + "true")


def test_a_place_is_in_characters() -> None:
    with pytest.raises(ConditionInvalid) as caught:
        compile_condition("request.stream &&\n  request.model == 7")
    assert [(f.line, f.column) for f in caught.value.faults] == [(2, 17)]
