"""Terms: what && and || join, through brackets and `!`."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.conditions import bind, compile_condition
from exclave_policy.model import Request
from exclave_policy.schema import activation
from exclave_policy.workbench.terms import terms_of


@pytest.mark.parametrize(
    ("source", "terms"),
    [
        ("request.stream", ["request.stream"]),
        ("request.stream && model.remote", ["request.stream", "model.remote"]),
        ("!(request.stream || !model.remote)", ["request.stream", "model.remote"]),
        ("!request.stream && time.hour < 6", ["request.stream", "time.hour < 6"]),
        ('"&&" == request.model || true', ['"&&" == request.model', "true"]),
        ("(time.hour < 6) == request.stream", ["(time.hour < 6) == request.stream"]),
        ("time.hour < 6 ? request.stream : model.remote && true", None),
        ('subject.roles.exists(r, r == "a" || r == "b") && true', 2),
        ("request.stream\n  && request.stream", ["request.stream"]),
        ("!(request.stream) == model.remote && true", 2),
    ],
)
def test_terms(source: str, terms: list[str] | int | None) -> None:
    found = [term.source for term in terms_of(compile_condition(source))]
    if isinstance(terms, int):
        assert len(found) == terms
    else:
        assert found == ([source] if terms is None else terms)


LEAVES = st.sampled_from(["request.stream", "model.remote", "time.hour < 6", "request.schema"])
SOURCES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(
            lambda t: f"({t[0]}) {t[1]} {t[2]}"
        ),
        inner.map(lambda source: f"!({source})"),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(SOURCES, st.booleans(), st.integers(0, 23))
def test_every_term_has_a_value_of_its_own(source: str, stream: bool, hour: int) -> None:
    request = Request("s", (), "chat", "m", stream=stream, hour=hour)
    bound = bind(activation(request))
    known = {
        "request.stream": stream,
        "model.remote": False,
        "time.hour < 6": hour < 6,
        "request.schema": False,
    }
    for term in terms_of(compile_condition(source)):
        assert term.holds(bound) is known[term.source]
