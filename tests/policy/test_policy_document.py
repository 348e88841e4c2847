"""Documents: every fault has its place, its path and its fix, and all are listed."""

from __future__ import annotations

import json

import pytest

from exclave_policy.compile import compile_pack
from exclave_policy.document import MAX_RULES
from exclave_testing.policies import HEAD, allow, deny, document, pack_of, problems

RULE = """    - id: a
      effect: allow
      subjects: {roles: [analyst]}
      actions: [chat]
      models: ["*"]
"""


def test_a_document_without_faults() -> None:
    assert problems(HEAD + RULE) == []


def test_all_faults_of_all_documents_are_listed_in_order() -> None:
    first = HEAD + RULE.replace("effect: allow", "effect: permit").replace("chat", "talk")
    second = HEAD + RULE.replace("id: a", "id: b").replace("analyst", "Analyst")
    found = problems(first, second)
    assert [(p.file, p.line, p.path) for p in found] == [
        ("policy-1.yaml", 8, "spec.rules[0].subjects.roles[0]"),
        ("policy.yaml", 7, "spec.rules[0].effect"),
        ("policy.yaml", 9, "spec.rules[0].actions[0]"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "fix"),
    [
        ("effect:", "efect:", "spec.rules[0]", "unknown field 'efect'", "did you mean 'effect'?"),
        ("effect: allow", "", "spec.rules[0]", "field 'effect' is missing", "add 'effect'"),
        ("id: a", "id: A", "spec.rules[0].id", "'A' is not a valid name", "lower-case"),
        ("id: a", "id: 7", "spec.rules[0].id", "found a whole number", "put it in quotes"),
        ("id: a", "id: \u0430", "spec.rules[0].id", "'\\u0430' is not a valid name", "use"),
        ("id: a", "id: default-deny", "spec.rules[0].id", "reserved", "another id"),
        ("id: a", "id: yes", "spec.rules[0].id", "readers disagree on", "quotes"),
        ("[chat]", "[]", "spec.rules[0].actions", "the list is empty", "at least one"),
        ("[chat]", "chat", "spec.rules[0].actions", "expected a list", "write it as a list"),
        ("[chat]", "[caht]", "spec.rules[0].actions[0]", "not allowed here", "'chat'?"),
        ("[chat]", "[chat, chat]", "spec.rules[0].actions[1]", "named twice", "once"),
        ("[analyst]", '["*", x]', "spec.rules[0].subjects.roles[0]", "already covers", "alone"),
        ("[analyst]", '["a*"]', "spec.rules[0].subjects.roles[0]", "not a valid name", "use"),
        ("{roles", "{rules", "spec.rules[0].subjects", "unknown field 'rules'", "'roles'?"),
        ('models: ["*"]', "", "spec.rules[0]", "field 'models' is missing", "an allow rule"),
        ("exclave.dev/v1", "exclave.dev/v2", "apiVersion", "not allowed here", "exclave.dev/v1"),
        ("kind: Policy", "kind: Polcy", "kind", "not allowed here", "'Policy'?"),
        ('version: "1"', "version: 1.0", "metadata.version", "with a fraction", "quotes"),
        ("name: test", "nam: test", "metadata", "unknown field 'nam'", "'name'?"),
    ],
)
def test_faults(old: str, new: str, path: str, message: str, fix: str) -> None:
    text = (HEAD + RULE).replace(old, new)
    assert text != HEAD + RULE
    match = [p for p in problems(text) if p.path == path and message in p.message and fix in p.fix]
    assert match, [str(p) for p in problems(text)]
    assert match[0].line > 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{max_tokens: 0}", "out of range"),
        ("{max_tokens: -1}", "out of range"),
        ("{max_tokens: 9223372036854775808}", "out of range"),
        ("{max_tokens: " + "9" * 4000 + "}", "out of range"),
        ("{max_tokens: .nan}", "found a number with a fraction"),
        ("{max_tokens: 1.5}", "found a number with a fraction"),
        ("{max_tokens: '7'}", "found text"),
        ("{}", "field 'max_tokens' is missing"),
        ("{max_token: 5}", "unknown field 'max_token'"),
        ("[]", "expected fields, found a list"),
    ],
)
def test_limits(limits: str, message: str) -> None:
    found = problems(HEAD + RULE + f"      limits: {limits}\n")
    assert any(message in p.message for p in found), [str(p) for p in found]


def test_a_deny_rule_has_no_limits() -> None:
    rule = deny("a", limits={"max_tokens": 5})
    assert [p.message for p in problems(json.dumps(document(rule)))] == [
        "a deny rule has no limits"
    ]


def test_messages_hold_no_more_than_a_name() -> None:
    found = problems(HEAD + RULE.replace("id: a", "id: " + "Z" * 5000))
    assert all(len(str(p)) < 400 for p in found)


def test_lists_and_rules_are_bounded() -> None:
    many = [f"r{i}" for i in range(257)]
    found = problems(json.dumps(document(allow("a", subjects={"roles": many}))))
    assert [p.message for p in found] == ["257 entries are too many"]
    rules = [deny(f"r{i}") for i in range(MAX_RULES + 1)]
    found = problems(json.dumps(document(*rules)))
    assert [p.message for p in found] == ["1001 rules are too many"]


def test_rules_of_all_documents_together_are_bounded() -> None:
    half = MAX_RULES // 2 + 1
    texts = [
        json.dumps(document(*(deny(f"{name}{i}") for i in range(half)))) for name in ("a", "b")
    ]
    assert [p.message for p in problems(*texts)] == [f"{2 * half} rules are too many"]


def test_rule_ids_are_unique_in_a_pack() -> None:
    found = problems(HEAD + RULE, HEAD + RULE)
    assert [p.message for p in found] == ["rule id 'a' is taken in policy-1.yaml line 6"]


@pytest.mark.parametrize(
    ("when", "line", "column"),
    [
        ("request.modle == 'x'", 11, 13),
        ("'request.modle == \"x\"'", 11, 14),
        ("\"time.hour == 1 || request.modle == 'x'\"", 11, 32),
        ("|\n        time.hour == 1\n        || request.modle == 'x'", 13, 12),
        (">\n        time.hour == 1\n        || request.modle == 'x'", 11, 13),
        ("\"\\x72equest.modle == 'x'\"", 11, 13),
    ],
)
def test_a_fault_in_a_condition_is_shown_where_it_is(when: str, line: int, column: int) -> None:
    found = problems(HEAD + RULE + f"      when: {when}\n")
    assert [(p.line, p.column, p.path, p.fix) for p in found] == [
        (line, column, "spec.rules[0].when", "did you mean 'request.model'?")
    ]


@pytest.mark.parametrize("when", ["", "null", "true", "7", "[a]", "{a: b}"])
def test_a_condition_is_text(when: str) -> None:
    found = problems(HEAD + RULE + f"      when: {when}\n")
    assert [p.message.split(",")[0] for p in found] == ["expected a condition as text"]


def test_json_is_yaml() -> None:
    text = json.dumps(document(allow("a", when='request.data_class == "\u00e9"')))
    assert problems(text) != []  # the condition's string is not ASCII
    policy = compile_pack(pack_of(json.dumps(document(allow("a", description="caf\u00e9")))))
    assert policy.rules[0].description == "caf\u00e9"


@pytest.mark.parametrize("text", ["[]", "x", "spec: {rules: 7}", "spec: 1", "{}", "[[]]"])
def test_documents_of_another_shape(text: str) -> None:
    assert problems(text) != []
