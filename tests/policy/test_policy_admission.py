"""What of CEL our documents do not admit: each of it refused, by its name."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_policy.admission import (
    FUNCTIONS,
    MACROS,
    OUTPUT_FUNCTIONS,
    OUTPUT_NAMES,
    REFUSED,
    Scope,
)
from exclave_policy.conditions import ConditionFailed, ConditionInvalid, bind, compile_condition
from exclave_policy.guards.checks import CompiledValidator, Material
from exclave_policy.kinds.validators import ConditionCheck, Validator
from exclave_policy.schema import VARIABLES, activation
from exclave_testing.policies import ask

S, L = "request.model", "subject.roles"
CALLS = {
    # cel.dev/spec: standard functions and macros
    "has": f"has({S})",
    "map": f"{L}.map(r, r) == []",
    "filter": f"{L}.filter(r, true) == []",
    "type": f"type({S}) == type({S})",
    "dyn": f"dyn({S}) == {S}",
    "int": f"int({S}) == 1",
    "uint": "uint(time.hour) == uint(1)",
    "double": "double(time.hour) == double(1)",
    "string": "string(time.hour) == '1'",
    "bytes": f"bytes({S}) == bytes('')",
    "bool": f"bool({S})",
    "timestamp": "timestamp('2030-01-01T00:00:00Z') == timestamp('')",
    "duration": "duration('1h') == duration('1h')",
    **{
        name: f"timestamp('').{name}() == 1"
        for name in (
            *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear"),
            *("getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
        )
    },
    # Extensions: optional types, math, strings, lists, sets, encoders, bindings, two-variable
    # comprehensions, regex, protos
    **{name: f"optional.{name}(1) == 1" for name in ("of", "ofNonZeroValue", "none")},
    **{name: f"{L}.{name}() == 1" for name in ("hasValue", "value", "orValue", "or")},
    **{name: f"{L}.{name}(r, r) == {L}" for name in ("optMap", "optFlatMap")},
    **{
        name: f"math.{name}(1, 2) == 1"
        for name in (
            *("greatest", "least", "ceil", "floor", "round", "trunc", "abs", "sign", "sqrt"),
            *("isNaN", "isInf", "isFinite", "bitAnd", "bitOr", "bitXor", "bitNot"),
            *("bitShiftLeft", "bitShiftRight"),
        )
    },
    **{
        name: f"{S}.{name}('') == ''"
        for name in (
            *("charAt", "indexOf", "lastIndexOf", "lowerAscii", "upperAscii", "replace", "split"),
            *("substring", "trim", "join", "format", "reverse"),
        )
    },
    "quote": f"strings.quote({S}) == ''",
    **{
        name: f"{L}.{name}() == []"
        for name in ("slice", "flatten", "sort", "sortBy", "distinct", "first", "last")
    },
    "range": "lists.range(9) == []",
    **{name: f"sets.{name}({L}, {L})" for name in ("equivalent", "intersects")},
    **{name: f"base64.{name}({S}) == ''" for name in ("encode", "decode")},
    "bind": "cel.bind(x, 1, x > 0)",
    "block": "cel.block([1], cel.index(0) > 0)",
    **{
        name: f"{L}.{name}(i, r, r) == []"
        for name in ("transformList", "transformMap", "transformMapEntry", "existsOne")
    },
    **{name: f"regex.{name}({S}, 'a') == ''" for name in ("extract", "extractAll")},
    **{name: f"proto.{name}({S}, a)" for name in ("hasExt", "getExt")},
    **{name: f"ip({S}).{name}() == 1" for name in ("family", "isLoopback", "isCanonical")},
}
RESERVED = (
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let"),
    *("loop", "package", "namespace", "return", "var", "void", "while", "null"),
)
SYNTAX = {
    "a map": "{'a': 1} == {}",
    "a message": "google.rpc.Status{code: 1} == 1",
    "an optional field": "request.?model == 'a'",
    "an optional element": f"{L}[?0] == 'a'",
    "an unsigned number": "time.hour == 1u",
    "a hexadecimal number": "time.hour == 0x1F",
    "an exponent": "time.hour < 1e3",
    "a decimal": "time.hour < 1.5",
    "bytes": "b'a' == b'a'",
    "raw bytes": "rb'a' == b'a'",
    "a triple-quoted string": f"{S} == '''a'''",
    "a comment": "true // why",
    "an escaped name": "`request.model` == 'a'",
    "an assignment": f"{S} = 'a'",
    "two expressions": "true; true",
    "a lambda": "x -> true",
    "a pattern that is computed": f"{S}.matches({S})",
    "a leading dot": ".request.model == 'a'",
}
NUMERIC = ("charAt", "sortBy")


def refusal(source: str, scope: Scope = Scope.REQUEST) -> str:
    with pytest.raises(ConditionInvalid) as caught:
        compile_condition(source, scope)
    return "; ".join(f"{fault.message} ({fault.fix})" for fault in caught.value.faults)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("name", CALLS)
def test_a_function_that_is_not_admitted_is_named(name: str, scope: Scope) -> None:
    if name in OUTPUT_FUNCTIONS and scope is Scope.OUTPUT:
        assert "has is for fields of output" in refusal("has(x)", scope)
        return
    assert f"function '{name}' is not admitted" in refusal(CALLS[name], scope)


@pytest.mark.parametrize("word", RESERVED)
def test_a_reserved_word_is_no_name(word: str) -> None:
    assert f"'{word}' is not a declared name" in refusal(f"{word} == 'a'")


@pytest.mark.parametrize("what", SYNTAX)
def test_what_is_written_otherwise_is_refused(what: str) -> None:
    assert refusal(SYNTAX[what])


def test_none_of_them_is_admitted_elsewhere() -> None:
    assert not {*FUNCTIONS, *MACROS} & CALLS.keys()
    assert REFUSED.keys() <= {*CALLS, *RESERVED}, "each fix is for something that has a test"


# --- conditions of Validators -----------------------------------------------------------------


def holds(source: str, text: str, **fields: Any) -> bool:
    condition = compile_condition(source, Scope.OUTPUT)
    values: dict[str, object] = {**activation(ask(**fields)), "text": text}
    with suppress(ValueError):
        values["output"] = json.loads(text)
    return condition.holds(bind(values, Scope.OUTPUT))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("output.amount <= 99.5", True),
        ("output.amount == 12", True),
        ("output.amount > request.message_count", True),
        ("output['amount'] > 11.9 && output.amount < 13", True),
        ("has(output.reason) && !has(output.other)", True),
        ("output.none == null", True),
        ("output.items.all(i, i.price >= 0.5)", True),
        ("output.items.exists(i, i.name.startsWith('b'))", True),
        ("output.items[1].price == 2", True),
        ("size(output.items) == 2 && size(output.reason) < 9", True),
        ("output.reason in ['late', 'broken']", True),
        ("output.reason.matches('^l')", True),
        ("text.contains('amount') && request.model == 'smollm2'", True),
        ("output.deep.er.value == true", True),
        ("output.amount == '12'", False),
    ],
)
def test_they_see_what_was_answered(source: str, expected: bool) -> None:
    answer = {
        "amount": 12,
        "reason": "late",
        "none": None,
        "items": [{"name": "a", "price": 0.5}, {"name": "b", "price": 2.0}],
        "deep": {"er": {"value": True}},
    }
    assert holds(source, json.dumps(answer), model="smollm2") is expected


@pytest.mark.parametrize(
    "source",
    [
        "output.missing == 1",
        "output.items[9] == 1",
        "output.reason > 'a'",
        "output.items.all(i, i.price > 0)",
        "output.reason.startsWith('a') && output.reason.size == 1",
        "output.a.b.c == 1",
        "output.none.x == 1",
    ],
)
def test_what_is_not_there_is_neither_true_nor_false(source: str) -> None:
    with pytest.raises(ConditionFailed) as caught:
        holds(source, '{"reason": 7, "items": 3, "none": null}')
    assert "7" not in str(caught.value)


def test_an_answer_that_is_no_json_fails_what_sees_it() -> None:
    with pytest.raises(ConditionFailed):
        holds("output == 1", "no json")
    assert holds("text == 'no json'", "no json")


@pytest.mark.parametrize(
    "source",
    [
        "output.l.all(i, !text.matches('z{9}'))",
        "output.l.all(i, output.m == output.m)",
        "output.l.all(i, !(1 in output.m))",
        "output.l.all(i, size(text + text) > 0)",
        "output.l.all(i, output.l.all(j, i == j))",
        "output.l.all(i, i.l.all(j, i == i))",
        "output.l.all(i, i.l.all(j, j == text))",
        "output['l'].exists(i, [output] == [i])",
        "output.l.all(text, text == output)",
    ],
)
def test_a_macro_sees_its_own_entry_alone(source: str) -> None:
    """Else one answer would be read as often as it has entries, and nothing can interrupt that."""
    assert "is not admitted in a macro of" in refusal(source, Scope.OUTPUT)


@pytest.mark.parametrize(
    "source",
    [
        "output.all(i, i == 0)",
        "output.l.all(i, i.a == 0 && i.b.startsWith('x') && request.model != 'm')",
        "output.l.all(o, o.lines.all(l, l.quantity > 0 && l.quantity in [1, 2, 3]))",
        "output.l.exists(i, subject.roles.exists(r, r == 'x')) ",
        "text.matches('z{9}') && output == output",
    ],
)
def test_what_is_useful_is_admitted(source: str) -> None:
    compile_condition(source, Scope.OUTPUT)


def test_the_dearest_condition_takes_time_in_proportion_to_the_answer() -> None:
    terms = [
        "text.matches('z{9}')",
        "output.l == output.m",
        "output.l.all(i, i == i)",
        "output.m == output.l",
    ]
    source = " || ".join(f"!({each})" for each in terms) + " || size(text + text) < 0"
    condition = compile_condition(source, Scope.OUTPUT)

    def seconds(entries: int) -> float:
        entry = "x" * 20
        answer = {"l": [entry] * entries, "m": [entry] * entries}
        values = {**activation(ask()), "text": json.dumps(answer), "output": answer}
        bound = bind(values, Scope.OUTPUT)
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            condition.holds(bound)
            taken.append(time.perf_counter() - started)
        return min(taken)

    assert seconds(5000) < 20 * seconds(1000)


def test_the_costliest_condition_over_an_answer_is_cut_short() -> None:
    with pytest.raises(ConditionFailed, match="too many steps"):
        holds("output.all(i, i == 0)", json.dumps([0] * 200_000))


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 100_000, '{"a":' * 70])
def test_a_deep_answer_is_not_read(text: str) -> None:
    held = CompiledValidator(
        Validator(
            "v",
            "1",
            "",
            "output",
            (ConditionCheck(compile_condition("output == 1", Scope.OUTPUT)),),
        )
    )
    failure = held.check(Material(text, values=activation(ask())))
    assert failure is not None and "levels" in failure.reason
    flat = held.check(Material('["[[[[' + "[" * 99 + '"]', values=activation(ask())))
    assert flat is not None and flat.reason == "a condition does not hold"


@pytest.mark.parametrize("name", ["request.stream", "request.model"])
def test_has_is_for_fields_of_answers(name: str) -> None:
    assert "has is for fields of output (write has(output.field))" in refusal(
        f"has({name})", Scope.OUTPUT
    )


@pytest.mark.parametrize("number", [2**63, -(2**70), math.inf, -math.inf, math.nan])
def test_numbers_beyond_64_bits_are_not_taken_for_others(number: float) -> None:
    condition = compile_condition("output.n == 1 || output.n > 0", Scope.OUTPUT)
    values = {**activation(ask()), "text": "", "output": {"n": number}}
    try:
        found = condition.holds(bind(values, Scope.OUTPUT))
    except ConditionFailed:
        return
    assert found is (number > 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
    )
)
def test_any_answer_is_answered(answer: Any) -> None:
    condition = compile_condition(
        "output.a == 1 || output[0] == 'x' || has(output.b)", Scope.OUTPUT
    )
    try:
        values = {**activation(ask()), "text": "", "output": answer}
        assert condition.holds(bind(values, Scope.OUTPUT)) in (True, False)
    except ConditionFailed:
        pass


def test_only_validators_see_answers() -> None:
    for name in OUTPUT_NAMES:
        assert name not in VARIABLES
        assert f"'{name}' is not a declared name" in refusal(f"{name} == 'a'")
        compile_condition(f"{name} == 'a'", Scope.OUTPUT)
