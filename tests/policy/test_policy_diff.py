"""Differences: found by asking both policies, told in words, exact over what was tried."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Request
from exclave_policy.workbench.diff import _boxes, as_json, diff
from exclave_policy.workbench.grid import MAX_POINTS, grid_of
from exclave_testing.policies import allow, compiled, deny, document, pack_of


def told(old: CompiledPolicy, new: CompiledPolicy) -> list[str]:
    return [str(change) for change in diff(old, new).changes]


def test_the_same_policy_differs_in_nothing() -> None:
    policy = compiled(allow("a"), deny("d", when="time.hour < 6"))
    assert diff(policy, policy).same
    reordered = compiled(deny("d", when="time.hour < 6"), allow("a"))
    assert diff(policy, reordered).same


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (
            [allow("a"), allow("b", actions=["embed"], models=["m"])],
            "now allowed: analyst, embed, model m (was denied by default-deny, is allowed by b)",
        ),
        (
            [allow("a"), deny("d", data_classes=["secret"])],
            "now denied: analyst, chat, data class secret (was allowed by a, is denied by d)",
        ),
        (
            [allow("a", limits={"max_tokens": 5})],
            "allowed otherwise: analyst, chat "
            "(was allowed by a, is allowed by a; at most 5 tokens)",
        ),
        (
            [allow("a"), deny("d", when="time.hour >= 20")],
            "now denied: analyst, chat, time.hour from 20 to 23 (was allowed by a, is denied by d)",
        ),
        (
            [allow("a"), allow("t", actions=["call_tool"], tools=["lookup"])],
            "now allowed: analyst, call_tool lookup (was denied by default-deny, is allowed by t)",
        ),
    ],
)
def test_a_change_is_told_in_words(new: list[dict[str, Any]], words: str) -> None:
    assert told(compiled(allow("a")), compiled(*new)) == [words]


def test_another_rule_with_the_same_effect_is_no_change() -> None:
    assert diff(compiled(allow("a")), compiled(allow("b"))).same
    assert diff(compiled(allow("a")), compiled(allow("a"), allow("also"))).same


def test_a_watched_rule_changes_nothing_until_it_is_enforced() -> None:
    watched = deny("d", mode="audit", when="request.stream")
    assert diff(compiled(allow("a")), compiled(allow("a"), watched)).same
    enforced = watched | {"mode": "enforce"}
    assert not diff(compiled(allow("a"), watched), compiled(allow("a"), enforced)).same


def test_other_documents_are_named() -> None:
    route = {
        "apiVersion": "exclave.dev/v1",
        "kind": "Route",
        "metadata": {"name": "best", "version": "1"},
        "spec": {"actions": ["chat"], "targets": [{"model": "m"}]},
    }
    plain = document(allow("a"))
    old = compile_pack(pack_of(json.dumps(plain)))
    new = compile_pack(pack_of(json.dumps(plain), json.dumps(route)))
    route["spec"] = {"actions": ["chat"], "targets": [{"model": "n"}]}
    other = compile_pack(pack_of(json.dumps(plain), json.dumps(route)))
    assert diff(old, new).documents == ("route best is new",)
    assert diff(new, old).documents == ("route best is gone",)
    assert diff(new, other).documents == ("route best is another one",)


def test_cases_find_what_the_grid_does_not() -> None:
    old = compiled(allow("a"))
    new = compiled(allow("a"), deny("d", when='subject.id.startsWith("zz")'))
    case = ("a known caller", Request("zz1", ("analyst",), "chat", "m"))
    assert diff(old, new, [case]).cases == ("a known caller",)


def test_a_large_grid_is_sampled_and_says_so() -> None:
    many = " || ".join(f"request.prompt_bytes == {n * 1000}" for n in range(1, 20))
    more = " || ".join(f"request.inputs == {n * 10}" for n in range(1, 20))
    policy = compiled(allow("a"), deny("d", when=many), deny("e", when=more))
    found = diff(policy, policy)
    assert found.tried <= MAX_POINTS < found.of
    assert as_json(found)["tried"] == found.tried
    assert list(grid_of(policy).points()) == list(grid_of(policy).points())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=27))
def test_boxes_hold_exactly_what_they_are_made_of(points: set[tuple[int, int, int]]) -> None:
    held = [point for box in _boxes(sorted(points)) for point in product(*box)]
    assert sorted(held) == sorted(points)
