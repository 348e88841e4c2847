"""Conditions: admits a bounded subset of CEL, type-checks it, and evaluates it without raising.

The gate reads the source's tokens before the CEL parser sees them and refuses by name what
documents do not admit, and what nests or repeats too much. Then `cel_expr_python` (Google's
C++ implementation) type-checks against the names of `schema.VARIABLES`. CEL: cel.dev/spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cel_expr_python import cel

from exclave_policy.errors import nearest
from exclave_policy.ranges import impossible
from exclave_policy.schema import VARIABLES

MAX_SOURCE = 4096
"""Most bytes of one condition."""
MAX_TOKENS = 512
MAX_DEPTH = 12
"""Deepest nesting of brackets."""
MAX_OPERATORS = 24
"""Longest run of operators in one bracket that nest in the syntax tree (all but && and ||)."""
MAX_PATTERN = 256
"""Most characters of a regular expression, quotes included."""
MAX_MACROS = 2
"""Most all/exists/exists_one in one condition: bounds the work to lists squared."""

FUNCTIONS = ("size", "startsWith", "endsWith", "contains", "matches")
MACROS = ("all", "exists", "exists_one")
WORDS = ("true", "false", "in")
REFUSED = {
    "has": 'every declared name always has a value; compare with "" instead',
    "map": "use all, exists or exists_one",
    "filter": "use all, exists or exists_one",
    "null": "no declared name is ever null",
    "dyn": "types are checked before signing",
    "type": "types are checked before signing",
    "int": "conversions are not admitted",
    "uint": "conversions are not admitted",
    "double": "conversions are not admitted",
    "string": "conversions are not admitted",
    "bytes": "conversions are not admitted",
    "bool": "conversions are not admitted",
    "timestamp": "use time.hour and time.weekday",
    "duration": "use time.hour and time.weekday",
}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+)
      | (?P<comment>//)
      | (?P<prefixed>[rRbB]{1,2}(?=["']))
      | (?P<triple>\"\"\"|''')
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<float>[0-9]+\.[0-9]|[0-9]+[eE]|[0-9]+[uU]|0[xX]|\.[0-9])
      | (?P<int>[0-9]+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:[ \t\n]*\.[ \t\n]*[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<op>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:()\[\],.])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BINARY = frozenset(
    ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "?", "!", "[", "in"]
)
_ERROR = re.compile(r"ERROR: <input>:(-?[0-9]+):(-?[0-9]+): ([^\n]*)")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a condition, and where in its source (1-based; 0: nowhere)."""

    line: int
    column: int
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `name` tokens hold a whole dotted name without its spaces."""

    kind: str
    text: str
    line: int
    column: int


class ConditionInvalid(Exception):
    """The condition is not admitted."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


class ConditionFailed(Exception):
    """A condition had no value for this request; the message holds none of its data."""


class Condition:
    """A compiled condition. Safe to share between threads: evaluation changes nothing."""

    __slots__ = ("_expression", "names", "source")

    def __init__(self, source: str, expression: Any, names: frozenset[str]) -> None:
        self.source = source
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


def bind(variables: Mapping[str, object]) -> Any:
    """An activation of the declared names. Raises: ConditionFailed when a value has no CEL form."""
    try:
        return _environment().Activation(dict(variables))
    except Exception:  # noqa: BLE001 - whatever cannot be bound (a lone surrogate, say) denies
        raise ConditionFailed("the request holds a value that conditions cannot see") from None


def compile_condition(source: str) -> Condition:
    """Admit and type-check one condition.

    Raises: ConditionInvalid listing every fault that could be found.
    """
    faults = list(_gate(source))
    if faults:
        raise ConditionInvalid(faults)
    try:
        expression = _environment().compile(source)
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
    return Condition(source, expression, _seen(tokenize(source)))


@cache
def _environment() -> Any:
    """The CEL environment: the declared names and their types, nothing else."""
    types = {
        "string": cel.Type.STRING,
        "int": cel.Type.INT,
        "bool": cel.Type.BOOL,
        "list(string)": cel.Type.List(cel.Type.STRING),
    }
    return cel.NewEnv(variables={name: types[v.type] for name, v in VARIABLES.items()})


# --- the gate ---------------------------------------------------------------------------


def _gate(source: str) -> Iterator[Fault]:
    size = len(source.encode("utf-8", "replace"))
    if size > MAX_SOURCE:
        yield Fault(1, 1, f"{size} bytes are too many", f"at most {MAX_SOURCE} bytes a condition")
        return
    tokens = tokenize(source)
    if not tokens:
        yield Fault(1, 1, "the condition is empty", "leave 'when' out for a rule without condition")
        return
    if len(tokens) > MAX_TOKENS:
        yield Fault(1, 1, f"{len(tokens)} tokens are too many", f"at most {MAX_TOKENS} a condition")
        return
    yield from _unadmitted(tokens)
    yield from _nesting(tokens)
    yield from _names(tokens)
    yield from _patterns(tokens)
    for place, message, fix in impossible(tokens, VARIABLES):
        yield Fault(tokens[place].line, tokens[place].column, message, fix)


def tokenize(source: str) -> list[Token]:
    tokens: list[Token] = []
    line, start = 1, 0
    for match in _TOKEN.finditer(source):
        kind, text = str(match.lastgroup), match.group()
        if kind != "space":
            value = "".join(text.split()) if kind == "name" else text
            tokens.append(Token(kind, value, line, match.start() - start + 1))
        breaks = text.count("\n")
        if breaks:
            line, start = line + breaks, match.start() + text.rfind("\n") + 1
    return tokens


def _unadmitted(tokens: Sequence[Token]) -> Iterator[Fault]:
    reasons = {
        "comment": ("a comment", "put it into the rule's description"),
        "triple": ("a string in triple quotes", "use one pair of quotes"),
        "float": ("a number that is not a plain whole number", "write a whole number"),
    }
    for token in tokens:
        if token.kind in reasons:
            what, fix = reasons[token.kind]
            yield Fault(token.line, token.column, f"{what} is not admitted", fix)
        elif token.kind == "prefixed" and token.text not in ("r", "R"):
            yield Fault(token.line, token.column, "bytes are not admitted", "use a string")
        elif token.kind == "other" or (token.kind == "string" and not token.text.isascii()):
            bad = next(c for c in token.text if token.kind == "other" or not c.isascii())
            message = f"character U+{ord(bad):04X} is not admitted here"
            fix = f"in a string write \\u{ord(bad):04x}" if 0x7F < ord(bad) < 0x10000 else ""
            yield Fault(token.line, token.column, message, fix)


def _nesting(tokens: Sequence[Token]) -> Iterator[Fault]:
    """Brackets at most MAX_DEPTH deep, and no bracket with a long run of nesting operators."""
    runs = [0]
    for token in tokens:
        if token.text in ("(", "[") and token.kind == "op":
            runs.append(0)
            if len(runs) > MAX_DEPTH + 1:
                fix = "split the rule"
                message = f"brackets nest deeper than {MAX_DEPTH}"
                yield Fault(token.line, token.column, message, fix)
                return
        elif token.text in (")", "]") and token.kind == "op" and len(runs) > 1:
            runs.pop()
        elif token.text in ("&&", "||", ","):
            runs[-1] = 0
        if token.text in _BINARY and token.kind in ("op", "name"):
            place = -2 if token.text == "[" else -1
            runs[place] += 1
            if runs[place] > MAX_OPERATORS:
                message = f"more than {MAX_OPERATORS} operators in a row"
                yield Fault(token.line, token.column, message, "split the rule")
                return


def _names(tokens: Sequence[Token]) -> Iterator[Fault]:
    """Every name is declared, a function, or a macro's own variable."""
    macros = [t for i, t in enumerate(tokens) if _called(tokens, i) in MACROS]
    if len(macros) > MAX_MACROS:
        where = macros[MAX_MACROS]
        message = f"more than {MAX_MACROS} of {', '.join(MACROS)}"
        yield Fault(where.line, where.column, message, "split the rule")
    own = {
        tokens[i + 2].text
        for i in range(len(tokens) - 2)
        if _called(tokens, i) in MACROS and tokens[i + 2].kind == "name"
    }
    for i, token in enumerate(tokens):
        if token.kind == "name":
            yield from _name(tokens, i, own)


def _name(tokens: Sequence[Token], i: int, own: set[str]) -> Iterator[Fault]:
    token = tokens[i]
    parts = token.text.split(".")
    called = _called(tokens, i)
    base = ".".join(parts[:-1]) if called else token.text
    if i and tokens[i - 1].text == ".":
        base = ""  # a method of a bracketed expression
    if called and called not in FUNCTIONS and called not in MACROS:
        fix = REFUSED.get(called) or nearest(called, (*FUNCTIONS, *MACROS))
        yield Fault(token.line, token.column, f"function {called[:64]!r} is not admitted", fix)
    if base and base not in VARIABLES and base not in WORDS and base not in own:
        fix = REFUSED.get(base) or nearest(base, (*VARIABLES, *own))
        message = f"{base[:64]!r} is not a declared name"
        yield Fault(token.line, token.column, message, fix)


def _seen(tokens: Sequence[Token]) -> frozenset[str]:
    """The declared names among them, also those that a method is called on."""
    dotted = [token.text for token in tokens if token.kind == "name"]
    return frozenset(
        name for text in dotted for name in (text, text.rpartition(".")[0]) if name in VARIABLES
    )


def _called(tokens: Sequence[Token], i: int) -> str:
    """The function's name when token `i` is a call, else ""."""
    token = tokens[i]
    if token.kind != "name" or token.text in WORDS or i + 1 >= len(tokens):
        return ""
    following = tokens[i + 1]
    is_call = following.text == "(" and following.kind == "op"
    return token.text.rpartition(".")[2] if is_call else ""


def _patterns(tokens: Sequence[Token]) -> Iterator[Fault]:
    """A pattern is written in the condition, so that it is checked before signing (RE2 syntax)."""
    for i, token in enumerate(tokens):
        if _called(tokens, i) != "matches":
            continue
        at = i + 2
        raw = at < len(tokens) and tokens[at].kind == "prefixed"
        literal = "".join(t.text for t in tokens[at : at + 1 + raw])
        closing = tokens[at + 1 + raw] if at + 1 + raw < len(tokens) else None
        if closing is None or closing.text != ")" or not literal.endswith(('"', "'")):
            fix = "write the pattern as one string in the call"
            yield Fault(token.line, token.column, "matches needs a literal pattern", fix)
            continue
        if len(literal) > MAX_PATTERN:
            fix = f"at most {MAX_PATTERN} characters a pattern"
            yield Fault(token.line, token.column, f"{len(literal)} characters are too many", fix)
        elif not _is_pattern(literal):
            fix = "RE2 syntax: no look-around, no back-references"
            yield Fault(token.line, token.column, "the pattern is not a regular expression", fix)


def _is_pattern(literal: str) -> bool:
    try:
        value = _environment().compile(f"''.matches({literal})").eval().value()
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
