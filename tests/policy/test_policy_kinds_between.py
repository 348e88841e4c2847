"""Documents of one pack held against each other, and their files after packs are combined."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exclave_policy.beside import Known, problems_of, unpriced
from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.kinds.validators import JudgeCheck, SchemaCheck
from exclave_policy.pack import Pack, combine
from exclave_testing.policies import allow, document

SCHEMA = '{"type": "object"}'
JUDGE = "Answered: {output}"
FILES = {"schemas/s.json": SCHEMA, "prompts/j.md": JUDGE}
CHECKS = [
    {"schema": {"file": "schemas/s.json"}},
    {"judge": {"model": "house", "prompt": "prompts/j.md", "least": "0.5"}},
]


def of(kind: str, spec: Any, name: str = "one") -> str:
    return json.dumps(
        {
            "apiVersion": "exclave.dev/v1",
            "kind": kind,
            "metadata": {"name": name, "version": "1"},
            "spec": spec,
        },
        indent=1,
    )


VALIDATOR = of("Validator", {"stage": "output", "checks": CHECKS})
REDACTION = of("Redaction", {"kinds": ["person"], "entities": "ner"})
APPROVAL = of("Approval", {"roles": ["reviewer"], "told": "wait"})
RETENTION = of("Retention", {"classes": [{"name": "short", "days": 3}]})
TELEMETRY = of("Telemetry", {})
OBLIGED = {
    "validators": ["one"],
    "redactions": ["one"],
    "approvals": ["one"],
    "retention": "short",
}


def policy(*, roles: list[str] | None = None, **rule: Any) -> str:
    spec = {"rules": [allow("a", **rule)]} | ({} if roles is None else {"roles": roles})
    return json.dumps(document() | {"spec": spec}, indent=1)


def faults(**texts: str) -> list[str]:
    """Those of a pack of these documents, by the names of their files."""
    files = {f"policies/{name}.yaml": text for name, text in texts.items()}
    try:
        compile_pack(Pack("p", "1", files | FILES))
    except PolicyInvalid as invalid:
        return [str(problem) for problem in invalid.problems]
    return []


def test_rules_oblige_to_what_is_there() -> None:
    documents = {"v": VALIDATOR, "r": REDACTION, "a": APPROVAL, "k": RETENTION, "t": TELEMETRY}
    files = {f"policies/{name}.yaml": text for name, text in documents.items()}
    files["policy.yaml"] = policy(obligations=OBLIGED)
    found = compile_pack(Pack("p", "1", files | FILES))
    assert list(found.validators) == list(found.redactions) == list(found.approvals) == ["one"]
    assert found.retention is not None
    assert found.telemetry is not None


def test_what_is_not_there_is_listed_with_the_nearest_name() -> None:
    listed = faults(
        p=policy(obligations=OBLIGED | {"validators": ["oen", "one"], "retention": "shorter"}),
        v=VALIDATOR,
        k=RETENTION,
    )
    assert [line.split(": ", 1)[1] for line in listed] == [
        "spec.rules[0].obligations.approvals: the pack has no approval 'one' "
        "(the pack has no approvals)",
        "spec.rules[0].obligations.redactions: the pack has no redaction 'one' "
        "(the pack has no redactions)",
        "spec.rules[0].obligations.retention: no class of data to keep is named 'shorter' "
        "(did you mean 'short'?)",
        "spec.rules[0].obligations.validators: the pack has no validator 'oen' "
        "(did you mean 'one'?)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VALIDATOR, "validator 'one' is defined in policies/a.yaml already"),
        (REDACTION, "redaction 'one' is defined in policies/a.yaml already"),
        (APPROVAL, "approval 'one' is defined in policies/a.yaml already"),
        (RETENTION, "a second document of kind Retention"),
        (TELEMETRY, "a second document of kind Telemetry"),
    ],
)
def test_two_of_one_name_or_one_too_many(text: str, message: str) -> None:
    (fault,) = faults(a=text, b=text, p=policy())
    assert fault.startswith("policies/b.yaml:1:1:")
    assert message in fault
    assert faults(a=text, p=policy()) == []


def test_a_declared_role_is_the_only_role_everywhere() -> None:
    budget = {
        "tenant": {"tokens": 5, "per": "day"},
        "teams": [
            {"name": "t", "roles": ["reviewers"], "tokens": 5, "per": "day"},
            {"name": "u", "roles": ["*"], "tokens": 5, "per": "day"},
        ],
    }
    more = json.dumps(document(allow("b", subjects={"roles": ["analist"]})), indent=1)
    documents = {"a": APPROVAL, "b": of("Budget", budget), "m": more}
    declaring = policy(roles=["analyst", "reviewers"])
    assert [fault.split(" ", 1) for fault in faults(p=declaring, **documents)] == [
        [
            "policies/a.yaml:1:1:",
            "spec.roles: role 'reviewer' is not declared in spec.roles of the pack's policy "
            "(did you mean 'reviewers'?)",
        ],
        [
            "policies/m.yaml:10:1:",
            "spec.rules[0].subjects.roles: role 'analist' is not declared in spec.roles of the "
            "pack's policy (did you mean 'analyst'?)",
        ],
    ]
    wrong = policy(roles=["analyst", "reviewer", "analist"])
    (fault,) = faults(p=wrong, **documents)
    assert fault.startswith("policies/b.yaml:14:1: spec.teams[0].roles: role 'reviewers'")
    assert faults(p=policy(), **documents) == []


def test_combined_packs_keep_their_own_files_and_roles() -> None:
    first = Pack(
        "first",
        "1",
        FILES | {"policy.yaml": policy(roles=["analyst"]), "policies/v.yaml": VALIDATOR},
    )
    others = {"policy.yaml": json.dumps(document(allow("b", subjects={"roles": ["clerk"]})))}
    others["policies/v.yaml"] = of("Validator", {"stage": "output", "checks": CHECKS[:1]}, "two")
    second = Pack("second", "1", others | {"schemas/s.json": '{"type": "string"}'})
    found = compile_pack(combine([first, second], "both")).validators
    assert found["one"].checks == (SchemaCheck(SCHEMA), JudgeCheck("house", JUDGE, 0.5))
    assert found["two"].checks == (SchemaCheck('{"type": "string"}'),)
    alone = Pack("second", "1", {path: others[path] for path in others})
    with pytest.raises(PolicyInvalid, match=r"second/policies/v\.yaml.*no file 'schemas/s\.json'"):
        compile_pack(combine([first, alone], "both"))


def test_many_faults_between_documents_are_counted() -> None:
    rules = [allow(f"r{i}", obligations={"approvals": ["none"]}) for i in range(150)]
    found = faults(p=json.dumps(document(*rules), indent=1))
    assert len(found) == 101
    assert "50 more problems" in found[0]


CHAT, INFER = Known(frozenset({"chat"})), Known(frozenset({"infer"}))
REMOTE = Known(frozenset({"chat", "infer"}), remote=True)


def test_judges_and_finders_of_names_are_local_models_of_the_release() -> None:
    files = {"policy.yaml": policy(), "policies/v.yaml": VALIDATOR, "policies/r.yaml": REDACTION}
    found = compile_pack(Pack("p", "1", files | FILES))
    assert problems_of(found, {"house": CHAT, "ner": INFER}) == []
    for models in ({}, {"house": REMOTE, "ner": REMOTE}, {"house": INFER, "ner": CHAT}):
        assert problems_of(found, models) == [
            "validator one: judge house is no model of the release that chats on the machine",
            "redaction one: entities ner is no model of the release that infers on the machine",
        ]


def test_helpers_need_no_price() -> None:
    budget = of("Budget", {"currency": "EUR", "tenant": {"money": "5", "per": "day"}})
    files = {"policy.yaml": policy(), "policies/v.yaml": VALIDATOR, "policies/b.yaml": budget}
    found = compile_pack(Pack("p", "1", files | FILES))
    free = Known(frozenset({"chat"}), currency="")
    models = {"paid": Known(frozenset({"chat"}), currency="EUR"), "house": free, "unknown": CHAT}
    assert unpriced(found, models) == []
    assert len(unpriced(found, models | {"other": free})) == 1
