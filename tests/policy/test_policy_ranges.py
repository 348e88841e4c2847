"""Comparisons that every request answers alike are refused; no other one is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.conditions import ConditionInvalid, bind, compile_condition
from exclave_policy.model import Request
from exclave_policy.schema import activation


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("time.hour == 25", "time.hour == 25 is never true"),
        ("time.hour > 23", "never true"),
        ("23 < time.hour", "time.hour > 23 is never true"),
        ("time.hour >= 0", "always true"),
        ("time.hour != 24", "always true"),
        ("time.weekday <= 6", "always true"),
        ("request.max_tokens < 0", "never true"),
        ("request.message_count > -1", "always true"),
        ("data.injection > 100", "never true"),
        ("request.stream || time.minute == 60", "never true"),
        ('request.action == "chatt"', 'request.action is never "chatt"'),
        ('"soon" != request.priority', 'request.priority is never "soon"'),
        ('request.action in ["chat", "embedd"]', 'request.action is never "embedd"'),
        ('model.runtime == "cuda"', 'model.runtime is never "cuda"'),
    ],
)
def test_what_can_only_be_a_mistake_is_refused(source: str, message: str) -> None:
    with pytest.raises(ConditionInvalid) as refused:
        compile_condition(source)
    assert any(message in fault.message for fault in refused.value.faults)
    assert all(fault.fix for fault in refused.value.faults)


@pytest.mark.parametrize(
    "source",
    [
        "time.hour + 20 > 23",
        "30 - time.hour > 23",
        "time.hour * 2 == 46",
        "time.hour < 23 + 10",
        "30 - 7 < time.hour + 5",
        'request.model == "chatt"',
        'request.action == "chat"',
        'request.action in ["chat", "embed"]',
        "size(subject.roles) > 100",
        "request.max_tokens == 9223372036854775807",
        'subject.roles.exists(r, r == "chatt")',
    ],
)
def test_what_may_be_meant_is_taken(source: str) -> None:
    assert compile_condition(source).source == source


OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from([("time.hour", 0, 23), ("time.day", 1, 31), ("time.weekday", 0, 6)]),
    OPERATORS,
    st.integers(-3, 35),
    st.booleans(),
)
def test_refused_is_exactly_what_has_one_answer(
    name: tuple[str, int, int], operator: str, number: int, flipped: bool
) -> None:
    field, low, high = name
    source = f"{number} {operator} {field}" if flipped else f"{field} {operator} {number}"
    if flipped and number < 0:
        return  # a sign in front is arithmetic: nothing is said of it
    python = f"{number} {operator} value" if flipped else f"value {operator} {number}"
    answers = {eval(python, {"value": value}) for value in range(low, high + 1)}  # our own text
    try:
        condition = compile_condition(source)
    except ConditionInvalid:
        assert len(answers) == 1
        return
    assert len(answers) == 2
    short = field.removeprefix("time.")
    for value in (low, high):
        request = Request("k", (), "chat", "m", **{short: value})  # type: ignore[arg-type]  # one int
        assert condition.holds(bind(activation(request))) == eval(python, {"value": value})
