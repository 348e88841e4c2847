"""The published JSON Schema and the parser refuse the same documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exclave_policy
from exclave_policy.source import Report, parse, plain
from exclave_testing.damage import damaged
from exclave_testing.policies import allow, deny, document, problems

SCHEMA = Path(exclave_policy.__file__).parent / "schemas" / "policy.v1.schema.json"
PACKS = Path(exclave_policy.__file__).parents[1] / "packs"
VALIDATOR = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))


def beyond(fault: str) -> bool:
    """Whether a fault is one that a schema cannot find: inside CEL, or an id taken twice."""
    shape = ("expected a condition", "the condition is empty")
    return "is taken in" in fault or (".when:" in fault and not any(s in fault for s in shape))


def both_say(value: Any) -> tuple[bool, bool]:
    """(the schema admits it, the parser admits it), faults beyond the schema left out."""
    faults = [str(problem) for problem in problems(json.dumps(value))]
    return VALIDATOR.is_valid(value), all(map(beyond, faults))


@pytest.mark.parametrize("path", sorted(PACKS.glob("*/policy*.yaml")), ids=str)
def test_the_schema_admits_the_shipped_policies(path: Path) -> None:
    root = parse(path.read_text(), Report(path.name))
    assert root is not None
    VALIDATOR.validate(plain(root))


FULL = document(
    allow("a", when="request.stream", limits={"max_tokens": 5}, description="x", models=["m"]),
    deny("d", subjects={"roles": ["*"]}, actions=["infer"], models=["*"]),
    deny("e"),
    allow(
        "t",
        actions=["call_tool", "use_endpoint", "use_secret"],
        tools=["lookup"],
        endpoints=["api.example.com"],
        secrets=["*"],
        data_classes=["", "public"],
        mode="audit",
    ),
    {
        "id": "o",
        "effect": "oblige",
        "limits": {"max_tokens": 9},
        "mode": "enforce",
    },
)


def test_both_admit_a_full_document() -> None:
    assert both_say(FULL) == (True, True)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**33),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != int(x)),
    st.sampled_from(
        [
            "",
            "*",
            "chat",
            "allow",
            "deny",
            "oblige",
            "audit",
            "a",
            "A b",
            "default-deny",
            "x" * 2000,
        ]
    ),
    st.sampled_from(
        [[], ["*"], ["*", "a"], ["a", "a"], ["chat", "embed"], ["call_tool"], ["é"], [1], {}, [[]]]
    ),
    st.sampled_from([{"roles": ["r"]}, {"max_tokens": 7}, {"max_tokens": 0}, {"x": 1}]),
)
NAMES = st.sampled_from(
    [
        *("id", "effect", "limits", "models", "extra", "description", "kind", "spec"),
        *("mode", "tools", "endpoints", "data_classes", "obligations", "actions", "validators"),
    ]
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data())
def test_they_agree_on_damaged_documents(data: st.DataObject) -> None:
    value = damaged(data, FULL, odd=ODD, names=NAMES)
    schema, parser = both_say(value)
    assert schema == parser, problems(json.dumps(value))
