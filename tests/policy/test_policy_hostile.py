"""Hostile text: no crash on a small stack, no slow path, no exception but PolicyInvalid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.admission import MAX_DEPTH, MAX_OPERATORS, MAX_TOKENS, Fault
from exclave_policy.compile import compile_pack
from exclave_policy.conditions import (
    Condition,
    ConditionFailed,
    ConditionInvalid,
    bind,
    compile_condition,
)
from exclave_policy.errors import PolicyInvalid
from exclave_policy.pack import Pack, unpack
from exclave_policy.schema import VARIABLES, activation
from exclave_policy.workbench.cases import run_cases
from exclave_testing.policies import HEAD, allow, ask, document

D, N = MAX_DEPTH, MAX_OPERATORS

# The deepest condition of each kind that is admitted, and the same far beyond the bounds.
DEEPEST = [
    "(" * D + "true" + ")" * D,
    "!" * N + "true",
    "[" * D + "]" * D + " == []",
    "!(" * D + "true" + ")" * D,
    ("(" + "!" * (N - 1)) * D + "true" + ")" * D,
    "0" + "+1" * (N - 1) + " == 1",
    ("(0" + "+1" * (N - 2) + "+") * D + "1" + ")" * D + " == 1",
    "true ? true : " * N + "true",
    "(true ? " * D + "true" + " : false)" * D,
    "subject.roles[0" + "[0" * 3 + "]" * 4 + " == ''",
    "request.stream && " * (MAX_TOKENS // 2 - 1) + "true",
    "subject.roles.all(a, subject.roles.all(b, " + "(" * (D - 2) + "a == b" + ")" * (D - 2) + "))",
]
FAR = [
    "(" * 2000 + "true" + ")" * 2000,
    "!" * 4000 + "true",
    "-" * 4000 + "1 == 1",
    "[" * 2000 + "]" * 2000 + " == []",
    "1" + "+1" * 2000 + " == 1",
    "true ? true : " * 280 + "true",
    "subject.roles" + "[0]" * 1300,
    "request" + ".a" * 2000,
    "subject.roles" + ".all(a, [a]" * 300 + ")" * 300,
    "'" + "\\" * 4000,
    "request.model.matches('" + "(" * 2000 + ")" * 2000 + "')",
    "request.model.matches('(a{1000}){1000}')",
    "size('" + "a" * 4000 + "') == 1",
]

PROGRAM = """
import json, sys, threading
from exclave_policy.conditions import ConditionInvalid, ConditionFailed, bind, compile_condition
from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.model import Request
from exclave_policy.pack import Pack, unpack
from exclave_policy.schema import activation

done = []

def work():
    for source in json.load(open(sys.argv[1])):
        try:
            condition = compile_condition(source)
            condition.holds(bind(activation(Request("k", ("a",), "chat", "m"))))
        except (ConditionInvalid, ConditionFailed):
            pass
    for text in ("[" * 100000, "{a: " * 50000, "- " * 50000, "? " * 50000, '["' * 50000):
        try:
            compile_pack(Pack("p", "1", {"policy.yaml": text}))
        except PolicyInvalid:
            done.append(text[0])
    for raw in (b"[" * 500000, b'{"files":' * 50000, b'{"a":{"b":"' + b"\\\\" * 300000):
        try:
            unpack(raw)
        except PolicyInvalid:
            done.append("unpack")

threading.stack_size(128 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(len(done))
"""


def test_nothing_crashes_a_stack_of_128_kib(tmp_path: Path) -> None:
    """In its own process: a crash would be a segmentation fault, not an exception."""
    sources = tmp_path / "sources.json"
    sources.write_text(json.dumps(DEEPEST + FAR))
    command = [sys.executable, "-c", PROGRAM, str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.strip() == "8"


@pytest.mark.parametrize("source", DEEPEST, ids=range(len(DEEPEST)))
def test_what_the_bounds_admit_is_compiled_or_refused_with_a_reason(source: str) -> None:
    condition, faults = compiled_or_faults(source)
    assert condition is not None or faults[0].message


@pytest.mark.parametrize("source", FAR, ids=range(len(FAR)))
def test_what_is_beyond_them_is_refused(source: str) -> None:
    if source.startswith("size("):  # long, not deep: admitted
        compile_condition(source)
        return
    with pytest.raises(ConditionInvalid):
        compile_condition(source)


def test_the_costliest_condition_is_cut_short() -> None:
    entries = ", ".join(["'x'"] * 120)
    source = f"[{entries}].all(a, [{entries}].all(b, a == b))"
    condition = compile_condition(source)
    with pytest.raises(ConditionFailed, match="too many steps"):
        condition.holds(bind(activation(ask())))


def compiled_or_faults(source: str) -> tuple[Condition | None, Sequence[Fault]]:
    """One or the other; nothing else may be raised."""
    try:
        return compile_condition(source), ()
    except ConditionInvalid as invalid:
        return None, invalid.faults


TOKENS = [
    *VARIABLES,
    *[
        "&&",
        "||",
        "!",
        "==",
        "!=",
        "<",
        "in",
        "(",
        ")",
        "[",
        "]",
        ",",
        "+",
        "-",
        "/",
        "%",
        "?",
        ":",
    ],
    *["'a'", '"b"', "r'c'", "0", "1", "7", "true", "false", ".", "all(", "exists(", "size(", "r"],
    *["matches(", ".startsWith(", "null", "{", "}", "//", "\n", "\\", "'", '"', "1.5", "0x1", "é"],
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(TOKENS), max_size=40).map(" ".join))
def test_any_sequence_of_tokens_is_answered(source: str) -> None:
    condition, faults = compiled_or_faults(source)
    assert all(fault.message and fault.line >= 0 for fault in faults)
    if condition is not None:
        with suppress(ConditionFailed):
            assert condition.holds(bind(activation(ask()))) in (True, False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_any_text_is_answered_as_a_condition(source: str) -> None:
    condition, faults = compiled_or_faults(source)
    assert (condition is None) is bool(faults)


TEXT = json.dumps(document(allow("a", when="request.stream", limits={"max_tokens": 5})), indent=1)
PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from([*"[]{}:,&*!|>-?#%@`'\"\n\t ", "---", "<<", "!!", "\\u0000", "null", "id: "]),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_document_is_refused_or_means_something(data: st.DataObject) -> None:
    """Never an exception of another kind, and never an allow without its role."""
    text = data.draw(st.sampled_from([TEXT, HEAD + TEXT]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        end = min(len(text), at + data.draw(st.integers(0, 12)))
        text = text[:at] + data.draw(PIECES) + text[end:]
    pack = Pack("p", "1", {"policy.yaml": text, "cases.yaml": text})
    with pytest.raises(PolicyInvalid) as caught:
        run_cases(pack)  # a policy is not a list of cases, whatever the damage
    assert all(p.message for p in caught.value.problems)
    with suppress(PolicyInvalid):
        assert not compile_pack(pack).evaluate(ask(roles=(), stream=True)).allowed


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_any_bytes_are_answered_as_a_pack(raw: bytes) -> None:
    with pytest.raises(PolicyInvalid):
        unpack(raw)
