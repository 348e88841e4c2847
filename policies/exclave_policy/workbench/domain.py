"""The values at which a condition can change its mind, and whether they are all there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

from exclave_policy.admission import Token, tokenize
from exclave_policy.conditions import Condition, ConditionFailed, bind
from exclave_policy.schema import VARIABLES, Value
from exclave_policy.workbench.terms import terms_of

MAX_POINTS = 2048
"""Most combinations of values that one question tries."""
MAX_ENTRIES = 5
"""Most entries of lists of which every subset is tried."""
OTHER = "another"
"""A string that no literal is, as long as no literal is it."""

_EQUAL = ("==", "!=")
_ORDER = ("<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Domain:
    """Values by name. `complete`: a condition over these names that is never true (or never false)
    at any combination of them is never true (or false) at all."""

    values: Mapping[str, Sequence[Value]]
    complete: bool

    @property
    def size(self) -> int:
        """Combinations."""
        number = 1
        for values in self.values.values():
            number *= len(values)
        return number

    def points(self) -> Iterator[dict[str, Value]]:
        """Every combination; call it only where `size` is bounded."""
        for each in product(*self.values.values()):
            yield dict(zip(self.values, each, strict=True))


def domain_of(*conditions: Condition) -> Domain:
    """The values at which one of them can change."""
    names = sorted(frozenset().union(*(condition.names for condition in conditions)))
    literals = [_Literals.of(condition) for condition in conditions]
    numbers = sorted(frozenset().union(*(each.numbers for each in literals)))
    texts = sorted(frozenset().union(*(each.texts for each in literals)))
    simple = all(each.simple for each in literals)
    found: dict[str, Sequence[Value]] = {}
    for name in names:
        found[name], whole = _values(name, numbers, texts)
        simple = simple and whole
    domain = Domain(found, simple)
    return domain if domain.size <= MAX_POINTS else Domain(found, False)


def holds(condition: Condition, point: Mapping[str, Value]) -> bool | None:
    """None: it has no value there."""
    try:
        return condition.holds(bind({name: point[name] for name in condition.names}))
    except ConditionFailed:
        return None


def _values(
    name: str, numbers: Sequence[int], texts: Sequence[str]
) -> tuple[Sequence[Value], bool]:
    variable = VARIABLES[name]
    if variable.type == "bool":
        return (False, True), True
    if variable.type == "int":
        low, high = variable.low, variable.high
        near = {number + step for number in numbers for step in (-1, 0, 1)}
        return sorted({low, high} | {each for each in near if low <= each <= high}), True
    if variable.type == "string":
        return variable.choices or _texts(texts), True
    entries = [*texts, _other(texts)]
    if len(entries) > MAX_ENTRIES:
        return ([], *([each] for each in entries), entries), False
    subsets = chain.from_iterable(combinations(entries, n) for n in range(len(entries) + 1))
    return [list(each) for each in subsets], True


def _texts(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(("", *texts, _other(texts))))


def _other(texts: Sequence[str]) -> str:
    found = OTHER
    while found in texts:
        found += "-one"
    return found


@dataclass(frozen=True, slots=True)
class _Literals:
    """What a condition compares with, and whether it does nothing but compare."""

    numbers: frozenset[int]
    texts: frozenset[str]
    simple: bool

    @staticmethod
    def of(condition: Condition) -> _Literals:
        tokens = tokenize(condition.source)
        numbers: set[int] = set()
        for place, token in enumerate(tokens):
            if token.kind == "int":
                sign = -1 if place and tokens[place - 1].text == "-" else 1
                numbers.add(sign * int(token.text))
        texts = {_text(token) for token in tokens if token.kind == "string"}
        terms = [tokenize(term.source) for term in terms_of(condition)]
        return _Literals(frozenset(numbers), frozenset(texts), all(map(_simple, terms)))


def _text(token: Token) -> str:
    """A string literal's value; CEL's escapes that Python lacks are rare, and only less exact."""
    try:
        value = ast.literal_eval(token.text)
    except (ValueError, SyntaxError):
        return token.text[1:-1]
    return value if isinstance(value, str) else token.text[1:-1]


def _simple(term: Sequence[Token]) -> bool:
    """A declared name by itself, or compared with literals in a way that `_values` exhausts."""
    while term and term[0].text == "!" and term[0].kind == "op":
        term = term[1:]
    if len(term) == 1:
        return term[0].text in VARIABLES or term[0].text in ("true", "false")
    if len(term) == 3:
        left, middle, right = term
        named = [each.text for each in (left, right) if each.text in VARIABLES]
        literal = [each for each in (left, right) if _literal(each)]
        if len(named) != 1 or len(literal) != 1:
            return False
        if middle.text == "in":
            return right.text in VARIABLES
        return middle.text in (*_EQUAL, *_ORDER) and (
            middle.text in _EQUAL or VARIABLES[named[0]].type == "int"
        )
    # NAME in [LITERAL, LITERAL ...]
    inside = term[3:-1]
    return (
        len(term) > 4
        and term[0].text in VARIABLES
        and [term[1].text, term[2].text, term[-1].text] == ["in", "[", "]"]
        and all(_literal(each) or each.text == "," for each in inside)
    )


def _literal(token: Token) -> bool:
    if token.kind == "string":
        return "\\" not in token.text
    return token.kind == "int" or token.text in ("true", "false")
