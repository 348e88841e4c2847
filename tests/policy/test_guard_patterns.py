"""Regular expressions in linear time, and schemas that stand by themselves."""

from __future__ import annotations

import time

import pytest

from exclave_policy.guards import patterns, schemas
from exclave_policy.guards.patterns import MAX_PATTERN, MAX_TEXT, Pattern, PatternFailed
from exclave_policy.guards.personal import find


@pytest.mark.parametrize("source", ["(a+)+$", "(a|a)*$", "(.*)*x", "([a-zA-Z]+)*$"])
def test_what_explodes_elsewhere_takes_linear_time(source: str) -> None:
    text = "a" * 1_000_000 + "!"
    started = time.perf_counter()
    Pattern(source).found(text)
    find(text, ["custom"], patterns=[source])
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("source", "text", "found"),
    [
        ("guarantee", "we guarantee it", True),
        ("(?i)GUARANTEE", "we guarantee it", True),
        ("^a$", "ba", False),
        (r"caf\x{e9}$", "the café", True),
        ('"', 'say "x"', True),
        (r"\\", "a\\b", True),
    ],
)
def test_a_pattern_is_found_anywhere(source: str, text: str, found: bool) -> None:
    assert patterns.fault(source) == ""
    assert Pattern(source).found(text) is found


@pytest.mark.parametrize(
    "source", ["", "(", "(?=a)", r"(a)\1", "a" * (MAX_PATTERN + 1), "é", "[b-a]"]
)
def test_what_is_no_pattern_is_refused_with_its_reason(source: str) -> None:
    assert patterns.fault(source)
    with pytest.raises(ValueError):
        Pattern(source)


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT + 1), "\ud800"])
def test_a_text_that_cannot_be_searched_is_not_taken_for_clean(text: str) -> None:
    with pytest.raises(PatternFailed):
        Pattern("x").found(text)


@pytest.mark.parametrize(
    "source", ["(?i)cust-[0-9]{8}", r"\d{3}", "a|b", "[^x]+", r"\pL+", "(?s).", "x{2,5}?"]
)
def test_both_engines_take_what_the_reader_takes(source: str) -> None:
    assert patterns.fault(source) == ""
    find("some text", ["custom"], patterns=[source])


def test_a_schema_stands_by_itself() -> None:
    assert "stands by itself" in schemas.fault('{"$ref": "https://example.com/x.json"}')
    assert "not JSON" in schemas.fault("{")
    assert "not an object" in schemas.fault("[]")
    assert "larger" in schemas.fault(" " * (schemas.MAX_SCHEMA_BYTES + 1))
    held = schemas.JsonSchema('{"type": "object", "required": ["a"]}')
    assert held.fault('{"a": 1}') == ""
    assert held.fault("{") == schemas.NOT_JSON
    assert "does not match" in held.fault("{}")
    assert held.fault("[" * 100_000) == schemas.NOT_JSON
