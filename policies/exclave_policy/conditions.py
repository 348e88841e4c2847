"""Conditions: type-checks what `admission` lets pass, and evaluates it without raising.

`cel_expr_python` (Google's C++ implementation) type-checks against the names of
`schema.VARIABLES`. CEL: cel.dev/spec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from cel_expr_python import cel

from exclave_policy.admission import Fault, Scope, gate, seen, tokenize
from exclave_policy.schema import VARIABLES

_ERROR = re.compile(r"ERROR: <input>:(-?[0-9]+):(-?[0-9]+): ([^\n]*)")


class ConditionInvalid(Exception):
    """The condition is not admitted."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


class ConditionFailed(Exception):
    """A condition had no value for this request; the message holds none of its data."""


class Condition:
    """A compiled condition. Safe to share between threads: evaluation changes nothing."""

    __slots__ = ("_expression", "names", "scope", "sees_output", "source")

    def __init__(
        self, source: str, expression: Any, names: frozenset[str], scope: Scope, sees_output: bool
    ) -> None:
        self.source = source
        self.scope = scope
        self.sees_output = sees_output
        """Whether it cannot be evaluated without `output`."""
        self.names = names
        """The declared names that it sees."""
        self._expression = expression

    def holds(self, activation: Any) -> bool:
        """Whether it holds. Raises: ConditionFailed for every way of having no answer."""
        try:
            value = self._expression.eval(activation).value()
        except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeErrors; all deny
            raise ConditionFailed(_reason(str(error))) from None
        if value is True or value is False:
            return bool(value)
        raise ConditionFailed(_reason(str(value)))


def bind(variables: Mapping[str, object], scope: Scope = Scope.REQUEST) -> Any:
    """An activation of the declared names; in the scope OUTPUT of `text` and, where the text is
    JSON, of `output`. Raises: ConditionFailed when a value has no CEL form."""
    try:
        return _environment(scope).Activation(dict(variables))
    except Exception:  # noqa: BLE001 - whatever cannot be bound (a lone surrogate, say) denies
        raise ConditionFailed("the request holds a value that conditions cannot see") from None


def compile_condition(source: str, scope: Scope = Scope.REQUEST) -> Condition:
    """Admit and type-check one condition.

    Raises: ConditionInvalid listing every fault that could be found.
    """
    faults = list(gate(source, scope, _is_pattern))
    if faults:
        raise ConditionInvalid(faults)
    try:
        expression = _environment(scope).compile(source)
        result = expression.return_type().name()
    except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeErrors; all refuse
        raise ConditionInvalid(_compiler_faults(str(error))) from None
    if result != "BOOL":
        fault = Fault(
            1,
            1,
            f"the condition is of type {result.lower()}, not bool",
            "compare it with something",
        )
        raise ConditionInvalid([fault])
    tokens = tokenize(source)
    roots = {token.text.partition(".")[0] for token in tokens if token.kind == "name"}
    return Condition(source, expression, seen(tokens), scope, "output" in roots)


@cache
def _environment(scope: Scope) -> Any:
    """The CEL environment: the declared names and their types, nothing else."""
    types = {
        "string": cel.Type.STRING,
        "int": cel.Type.INT,
        "bool": cel.Type.BOOL,
        "list(string)": cel.Type.List(cel.Type.STRING),
    }
    names = {name: types[v.type] for name, v in VARIABLES.items()}
    if scope is Scope.OUTPUT:
        names |= {"text": cel.Type.STRING, "output": cel.Type.DYN}
    return cel.NewEnv(variables=names)


def _is_pattern(literal: str) -> bool:
    try:
        value = _environment(Scope.REQUEST).compile(f"''.matches({literal})").eval().value()
    except Exception:  # noqa: BLE001 - the library raises bare RuntimeErrors; all refuse
        return False
    return value is True or value is False


# --- words of the library ------------------------------------------------------------------


def _compiler_faults(text: str) -> list[Fault]:
    found = [
        Fault(max(int(line), 0), max(int(column), 0), _ascii(message))
        for line, column, message in _ERROR.findall(text)
    ]
    if found:
        return found
    if "recursion" in text.lower():
        return [Fault(1, 1, "the condition nests too deep", "split the rule")]
    return [Fault(1, 1, "the condition could not be checked", "simplify it")]


def _ascii(message: str) -> str:
    return message.encode("ascii", "backslashreplace").decode()[:300]


_REASONS = {
    "divide by zero": "division by zero",
    "modulus by zero": "division by zero",
    "overflow": "a number grew too large",
    "too big": "a number grew too large",
    "Index error": "an index is past the end of its list",
    "Iteration budget": "it takes too many steps",
}


def _reason(text: str) -> str:
    """The library's error in our words: theirs may quote values of the request."""
    for part, reason in _REASONS.items():
        if part in text:
            return reason
    return "it has no value for this request"
