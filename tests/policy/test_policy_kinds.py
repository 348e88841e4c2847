"""Documents of kind Validator, Redaction, Approval, Retention and Telemetry: what they mean, what
is refused and where, their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exclave_policy
from exclave_policy.document import KINDS, read_document
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.finality import Finality
from exclave_policy.kinds.redactions import Redaction
from exclave_policy.kinds.retention import Retention
from exclave_policy.kinds.telemetry import Telemetry
from exclave_policy.kinds.validators import (
    ConfidenceCheck,
    GroundedCheck,
    InjectionCheck,
    JudgeCheck,
    PatternCheck,
    PersonalCheck,
    SchemaCheck,
    Validator,
)
from exclave_policy.source import Report
from exclave_testing.damage import damaged

SCHEMAS = Path(exclave_policy.__file__).parent / "schemas"
CLAIM = '{"type": "object", "required": ["amount"]}'
FILES = {
    "schemas/claim.json": CLAIM,
    "schemas/broken.json": '{"type": ',
    "schemas/odd.json": '{"type": "decimal"}',
    "schemas/away.json": '{"$ref": "https://example.com/x.json"}',
    "schemas/large.json": '{"title": "' + "x" * 65_536 + '"}',
    "prompts/judge.md": "Asked: {input}\nAnswered: {output}\nIs it polite?",
    "prompts/blind.md": "Is it polite?",
}


def whole(kind: str, spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "exclave.dev/v1",
        "kind": kind,
        "metadata": {"name": "one", "version": "1", "description": "x"},
        "spec": spec,
    }


OUTSIDE = "outside.example/w+0123abcd+" + "A" * 44
LOG = "exclave.example/_witness/coordinator/e1+89abcdef+" + "B" * 44
FULL: Mapping[str, Any] = {
    "Validator": {
        "stage": "output",
        "mode": "audit",
        "checks": [
            {"schema": {"file": "schemas/claim.json"}},
            {"schema": {"json": CLAIM}},
            {"cel": 'request.action == "chat"'},
            {"pattern": {"must": ["^.{1,400}$"], "must_not": ["(?i)guarantee"]}},
            {"confidence": {"least": "0.8", "tensor": "probabilities"}},
            {"grounded": ["amounts", "ids", "dates"]},
            {"personal": {"kinds": ["card", "national_id"], "countries": ["DE"]}},
            {"injection": {"most": 60}},
            {"judge": {"model": "house-small", "prompt": "prompts/judge.md", "least": "0.7"}},
        ],
        "on_failure": {"repair": True, "otherwise": "escalate", "told": "Somebody looks at it."},
    },
    "Redaction": {
        "kinds": ["card", "national_id", "person", "custom"],
        "scope": "always",
        "tokens": "keyed",
        "key": "pseudonyms",
        "restore": False,
        "refuse": ["card"],
        "countries": ["DE", "NL"],
        "patterns": ["CUST-[0-9]{8}"],
        "entities": "ner",
    },
    "Approval": {
        "roles": ["reviewer", "lead"],
        "count": 2,
        "separate": False,
        "expires_seconds": 3600,
        "told": "A colleague checks this first.",
    },
    "Retention": {
        "classes": [
            {"name": "short", "days": 30, "data_classes": ["health", ""]},
            {"name": "usual", "days": 365, "data_classes": ["*"]},
            {"name": "never", "days": 0},
        ]
    },
    "Telemetry": {"counts": True, "minimum": 10, "round_to": 5, "traces": False},
    "Finality": {
        "log": LOG,
        "witnesses": [OUTSIDE],
        "classes": [
            {"name": "high", "witnesses": 2, "data_classes": ["health"]},
            {"name": "usual", "witnesses": 1, "data_classes": ["*"]},
        ],
    },
}


def read(kind: str, spec: Any) -> tuple[Any, list[str]]:
    report = Report("policies/one.yaml")
    found = read_document(json.dumps(whole(kind, spec)).encode(), report, FILES)
    return found, [str(problem) for problem in report.all()]


# --- what they mean ----------------------------------------------------------------------------


def test_a_finality_in_full() -> None:
    found, faults = read("Finality", FULL["Finality"])
    assert faults == []
    assert isinstance(found, Finality)
    assert (found.log, found.witnesses, found.most) == (LOG, (OUTSIDE,), 2)
    high, usual = found.classes
    assert [found.of(label) for label in ("health", "", "other")] == [high, usual, usual]
    assert (high.witnesses, usual.witnesses) == (2, 1)


def test_a_validator_in_full() -> None:
    found, faults = read("Validator", FULL["Validator"])
    assert faults == []
    assert isinstance(found, Validator)
    assert (found.stage, found.mode, found.repair) == ("output", "audit", True)
    assert (found.otherwise, found.told) == ("escalate", "Somebody looks at it.")
    schema, written, condition, pattern, *others = found.checks
    assert schema == written == SchemaCheck(CLAIM)
    assert condition.condition.source == 'request.action == "chat"'
    assert pattern == PatternCheck(("^.{1,400}$",), ("(?i)guarantee",))
    assert others == [
        ConfidenceCheck(0.8, "probabilities"),
        GroundedCheck(frozenset({"amounts", "ids", "dates"})),
        PersonalCheck(frozenset({"card", "national_id"}), ("DE",), True),
        InjectionCheck(60),
        JudgeCheck("house-small", FILES["prompts/judge.md"], 0.7),
    ]


def test_a_validator_of_inputs_refuses_unless_told_otherwise() -> None:
    checks = [{"personal": {"kinds": ["card"]}}, {"injection": {"most": 0}}]
    found, faults = read("Validator", {"stage": "input", "checks": checks})
    assert faults == []
    assert found.checks == (PersonalCheck(frozenset({"card"}), (), False), InjectionCheck(0))
    assert (found.mode, found.repair, found.otherwise) == ("enforce", False, "refuse")


def test_the_others_in_full() -> None:
    redaction, approval, retention, telemetry = (
        read(kind, FULL[kind])[0] for kind in ("Redaction", "Approval", "Retention", "Telemetry")
    )
    place: dict[str, Any] = {"file": "policies/one.yaml", "line": 1}
    assert redaction == Redaction(
        "one",
        "1",
        "x",
        frozenset({"card", "national_id", "person", "custom"}),
        "always",
        "keyed",
        "pseudonyms",
        False,
        frozenset({"card"}),
        ("DE", "NL"),
        ("CUST-[0-9]{8}",),
        "ner",
        **place,
    )
    roles = frozenset({"reviewer", "lead"})
    told = "A colleague checks this first."
    assert approval == Approval("one", "1", "x", roles, 2, False, 3600, told, **place)
    assert telemetry == Telemetry("one", "1", "x", True, 10, 5, False, **place)
    assert isinstance(retention, Retention)
    assert [each.days for each in retention.classes] == [30, 365, 0]
    assert [retention.of(label) for label in ("health", "", "other")] == [
        retention.named("short"),
        retention.named("short"),
        retention.named("usual"),
    ]


def test_what_is_left_out_is_the_safe_default() -> None:
    redaction, _ = read("Redaction", {"kinds": ["email"]})
    assert (redaction.scope, redaction.tokens, redaction.restore) == ("remote", "numbered", True)
    approval, _ = read("Approval", {"roles": ["r"], "told": "wait"})
    assert (approval.count, approval.separate, approval.expires_seconds) == (1, True, 86_400)
    telemetry, _ = read("Telemetry", {})
    assert (telemetry.counts, telemetry.minimum, telemetry.round_to) == (True, 0, 1)


# --- what is refused ---------------------------------------------------------------------------


def checks(check: Any, stage: str = "output", **more: Any) -> dict[str, Any]:
    return {"stage": stage, "checks": [check]} | more


OK = {"injection": {"most": 5}}
REFUSED: list[tuple[str, Any, str]] = [
    ("Validator", checks({}), "spec.checks[0]: each entry is one check"),
    ("Validator", checks(OK | {"grounded": ["ids"]}), "spec.checks[0]: each entry is one check"),
    ("Validator", checks({"gruonded": ["ids"]}), "did you mean 'grounded'?"),
    ("Validator", {"stage": "output", "checks": []}, "spec.checks: 0 checks"),
    ("Validator", {"stage": "output", "checks": [OK] * 17}, "spec.checks: 17 checks"),
    ("Validator", {"stage": "output", "checks": OK}, "expected a list of checks"),
    ("Validator", checks(OK, "outputs"), "spec.stage: 'outputs' is not allowed here"),
    ("Validator", checks({"schema": {"file": "schemas/claims.json"}}), "did you mean 'schemas/cl"),
    ("Validator", checks({"schema": {"file": "../claim.json"}}), "is not a valid name"),
    ("Validator", checks({"schema": {"file": "schemas/broken.json"}}), "the schema is not JSON"),
    ("Validator", checks({"schema": {"file": "schemas/odd.json"}}), "not a JSON Schema"),
    ("Validator", checks({"schema": {"file": "schemas/away.json"}}), "not a JSON Schema"),
    ("Validator", checks({"schema": {"file": "schemas/large.json"}}), "has 65549 bytes"),
    ("Validator", checks({"schema": {}}), "exactly one schema is needed"),
    ("Validator", checks({"schema": {"json": "[]"}}), "the schema is not an object"),
    ("Validator", checks({"cel": "request.modle == 'x'"}), "did you mean 'request.model'?"),
    ("Validator", checks({"pattern": {}}), "spec.checks[0].pattern: nothing is looked for"),
    ("Validator", checks({"pattern": {"must": ["(?=x)"]}}), "pattern.must[0]: not a regular"),
    ("Validator", checks({"pattern": {"must": ["(a\\1"]}}), "pattern.must[0]: not a regular"),
    ("Validator", checks({"confidence": {"least": 0.8}}), "not a decimal number as text"),
    ("Validator", checks({"confidence": {"least": "1.5"}}), "not a decimal number as text"),
    ("Validator", checks({"confidence": {"least": "NaN"}}), "not a decimal number as text"),
    ("Validator", checks({"grounded": ["amount"]}), "did you mean 'amounts'?"),
    ("Validator", checks({"personal": {"kinds": ["person"]}}), "'person' is not allowed here"),
    ("Validator", checks({"personal": {"kinds": ["national_id"]}}), "looked for by country"),
    ("Validator", checks({"injection": {"most": 101}}), "from 0 to 100"),
    ("Validator", checks({"injection": {"most": 2**63}}), "from 0 to 100"),
    (
        "Validator",
        checks({"judge": {"model": "m", "prompt": "prompts/blind.md", "least": "1"}}),
        "spec.checks[0].judge.prompt: the judge is not shown the answer",
    ),
    (
        "Validator",
        checks({"judge": {"model": "m", "prompt": "prompts/jugde.md", "least": "1"}}),
        "did you mean 'prompts/judge.md'?",
    ),
    ("Validator", checks({"confidence": {"least": "1"}}, "input"), "says nothing about an input"),
    (
        "Validator",
        checks({"personal": {"kinds": ["card"], "from_input": True}}, "input"),
        "spec.checks[0].personal.from_input: every input holds what it holds",
    ),
    ("Validator", checks(OK, "input", on_failure={"repair": True}), "for the stage output"),
    (
        "Validator",
        checks(OK, "input", on_failure={"otherwise": "fall_back"}),
        "spec.on_failure.otherwise: this is for the stage output",
    ),
    ("Validator", checks(OK, on_failure={"otherwise": "escalate"}), "nothing to tell"),
    ("Validator", checks(OK, on_failure={"told": "x"}), "spec.on_failure.told: nobody is told"),
    (
        "Validator",
        checks(OK, on_failure={"otherwise": "escalate", "told": " "}),
        "spec.on_failure.told: the text is empty",
    ),
    ("Redaction", {"kinds": []}, "spec.kinds: the list is empty"),
    ("Redaction", {"kinds": ["cards"]}, "did you mean 'card'?"),
    ("Redaction", {"kinds": ["person"]}, "spec.kinds[0]: this is found by a model only"),
    ("Redaction", {"kinds": ["card"], "entities": "ner"}, "a model that has nothing to find"),
    ("Redaction", {"kinds": ["custom"]}, "spec.kinds[0]: nothing says what custom is"),
    ("Redaction", {"kinds": ["card"], "patterns": ["x"]}, "patterns are for the kind custom"),
    ("Redaction", {"kinds": ["custom"], "patterns": ["(?!x)"]}, "spec.patterns[0]: not a regular"),
    ("Redaction", {"kinds": ["national_id"]}, "spec.kinds[0]: this is looked for by country"),
    ("Redaction", {"kinds": ["card"], "countries": ["de"]}, "two capitals of ISO 3166"),
    ("Redaction", {"kinds": ["card"], "key": "k"}, "spec.key: numbered tokens have no key"),
    ("Redaction", {"kinds": ["card"], "refuse": ["iban"]}, "spec.refuse[0]: this kind is not"),
    ("Approval", {"told": "x"}, "field 'roles' is missing"),
    ("Approval", {"roles": ["r"]}, "field 'told' is missing"),
    ("Approval", {"roles": ["*"], "told": "x"}, "spec.roles[0]: '*' is not a valid name"),
    ("Approval", {"roles": ["r"], "told": "x", "count": 0}, "from 1 to 16"),
    ("Approval", {"roles": ["r"], "told": "x", "expires_seconds": 1}, "from 60 to 2678400"),
    ("Approval", {"roles": ["r"], "told": "x" * 4097}, "4097 characters are too many"),
    ("Retention", {"classes": []}, "spec.classes: 0 classes"),
    ("Retention", {"classes": [{"name": "a", "days": -1}]}, "from 0 to 36500"),
    (
        "Retention",
        {"classes": [{"name": "a", "days": 1}, {"name": "a", "days": 2}]},
        "spec.classes[1].name: class 'a' is defined already",
    ),
    (
        "Retention",
        {
            "classes": [
                {"name": "a", "days": 1, "data_classes": ["x"]},
                {"name": "b", "days": 2, "data_classes": ["y", "x"]},
            ]
        },
        "spec.classes[1].data_classes[1]: 'x' is of spec.classes[0] already",
    ),
    ("Telemetry", {"minimum": "ten"}, "expected a whole number"),
    ("Telemetry", {"round_to": 0}, "from 1 to 1000000"),
    ("Telemetry", {"trace": True}, "did you mean 'traces'?"),
    ("Finality", {"classes": []}, "spec.classes: 0 classes"),
    ("Finality", {"classes": [{"name": "a", "witnesses": 1}]}, "field 'data_classes' is missing"),
    (
        "Finality",
        {"classes": [{"name": "a", "witnesses": 2, "data_classes": ["*"]}]},
        "2 witnesses, and 1 are known",
    ),
    (
        "Finality",
        {"witnesses": [OUTSIDE], "classes": [{"name": "a", "witnesses": 1, "data_classes": ["x"]}]},
        "spec.witnesses: no `log`",
    ),
    (
        "Finality",
        {"log": "me", "classes": [{"name": "a", "witnesses": 1, "data_classes": ["x"]}]},
        "spec.log: 'me' is not a valid name",
    ),
    (
        "Finality",
        {
            "classes": [
                {"name": "a", "witnesses": 1, "data_classes": ["x"]},
                {"name": "a", "witnesses": 1, "data_classes": ["x"]},
            ]
        },
        "'x' is of spec.classes[0] already",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "words"), REFUSED)
def test_faults_have_a_place_and_a_fix(kind: str, spec: Any, words: str) -> None:
    found, faults = read(kind, spec)
    assert found is None
    assert any(words in fault for fault in faults), faults
    assert all(fault.startswith("policies/one.yaml:1:") for fault in faults)


def test_all_faults_are_listed_where_they_are() -> None:
    text = """apiVersion: exclave.dev/v1
kind: Validator
metadata: {name: refunds, version: "1"}
spec:
  stage: output
  checks:
    - schema: {file: schemas/none.json}
    - pattern:
        must_not: ["fine", "(?<=x)y"]
    - injection: {most: 200}
  on_failure: {otherwise: fallback}
"""
    report = Report("policies/v.yaml")
    assert read_document(text.encode(), report, FILES) is None
    assert [(p.line, p.column, p.path) for p in report.all()] == [
        (7, 22, "spec.checks[0].schema.file"),
        (9, 28, "spec.checks[1].pattern.must_not[1]"),
        (10, 25, "spec.checks[2].injection.most"),
        (11, 27, "spec.on_failure.otherwise"),
    ]


# --- the schemas -------------------------------------------------------------------------------

SCHEMA = {
    kind: jsonschema_rs.validator_for(
        json.loads((SCHEMAS / f"{kind.lower()}.v1.schema.json").read_text())
    )
    for kind in FULL
}
BEYOND = (
    # Inside CEL, in a file or a pattern, between classes: what no schema of the document can see.
    ("spec.checks", ".cel:"),
    ("the pack has no file", ""),
    ("has 65549 bytes", ""),
    ("the schema is not", ""),
    ("not a JSON Schema", ""),
    ("not a regular expression", ""),
    ("the judge is not shown", ""),
    ("is defined already", ""),
    ("is of spec.classes", ""),
    (" witnesses, and ", " are known"),
)


def beyond(fault: str) -> bool:
    shape = ("expected a condition", "the condition is empty")
    return any(a in fault and b in fault for a, b in BEYOND) and not any(s in fault for s in shape)


def both_say(kind: str, value: Any) -> tuple[bool, bool]:
    """(the schema admits it, the reader admits it), faults beyond the schema left out."""
    report = Report("x")
    read_document(json.dumps(value).encode(), report, FILES)
    return SCHEMA[kind].is_valid(value), all(beyond(str(fault)) for fault in report.all())


@pytest.mark.parametrize("kind", FULL)
def test_both_admit_a_full_document(kind: str) -> None:
    assert both_say(kind, whole(kind, FULL[kind])) == (True, True)


@pytest.mark.parametrize(("kind", "spec", "words"), REFUSED)
def test_both_refuse_the_same(kind: str, spec: Any, words: str) -> None:
    schema, reader = both_say(kind, whole(kind, spec))
    assert schema == reader


def names_in(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    own = set(value) if isinstance(value, dict) else set()
    return own.union(*map(names_in, inner))


NAMES = st.sampled_from(sorted({*names_in(dict(FULL)), "extra", "kind", "metadata"}))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**64),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != int(x)),
    st.sampled_from(
        ["", "*", "a", "A b", "input", "escalate", "fall_back", "0.5", "DE", "x" * 5000]
    ),
    st.sampled_from([[], ["*"], ["a", "a"], ["card"], ["custom", "person"], [1], {}, [[]], ["é"]]),
    st.sampled_from([{"file": "schemas/claim.json"}, {"least": "1"}, {"kinds": ["national_id"]}]),
    st.sampled_from([["keyed"], "keyed", "numbered", ["DE"], {"must": ["x"]}, {"most": 100}]),
)


@pytest.mark.parametrize("kind", FULL)
@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_they_agree_on_damaged_documents(kind: str, data: st.DataObject) -> None:
    value = damaged(data, whole(kind, FULL[kind]), odd=ODD, names=NAMES)
    if not isinstance(value, dict) or value.get("kind") != kind:
        return
    schema, reader = both_say(kind, value)
    assert schema == reader, value


# --- junk --------------------------------------------------------------------------------------

JUNK = st.recursive(
    ODD | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(KINDS)), JUNK, st.booleans())
def test_junk_never_raises_and_every_fault_has_a_line(kind: str, spec: Any, flow: bool) -> None:
    text = json.dumps(whole(kind, spec), indent=None if flow else 1, ensure_ascii=False)
    report = Report("x.yaml")
    found = read_document(text.encode("utf-8", "surrogatepass"), report, FILES)
    assert (found is None) == bool(report.problems)
    lines = text.count("\n") + 1
    assert all(0 <= fault.line <= lines for fault in report.problems)
    assert all(fault.line or "not UTF-8" in fault.message for fault in report.problems)
