"""Refuses comparisons that every request answers alike: what a name can never be was not meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from exclave_policy.errors import nearest
from exclave_policy.model import UNBOUNDED
from exclave_policy.schema import Variable

_FLIPPED: Mapping[str, str] = {
    "==": "==",
    "!=": "!=",
    "<": ">",
    "<=": ">=",
    ">": "<",
    ">=": "<=",
}
_ARITHMETIC = frozenset(["+", "-", "*", "/", "%"])
_DIGITS = 19
"""Of the largest number that a condition can hold."""


class _Token(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...


def impossible(
    tokens: Sequence[_Token], variables: Mapping[str, Variable]
) -> Iterator[tuple[int, str, str]]:
    """Place of the token, message and fix of each comparison of a declared name with a literal
    that holds for every request, or for none."""
    for place, token in enumerate(tokens):
        variable = variables.get(token.text) if token.kind == "name" else None
        if variable is None:
            continue
        for said in (*_numbers(tokens, place, variable), *_words(tokens, place, variable)):
            yield place, *said


def _numbers(tokens: Sequence[_Token], place: int, variable: Variable) -> Iterator[tuple[str, str]]:
    if variable.type != "int":
        return
    for operator, number in _compared(tokens, place):
        word = _always(operator, number, variable.low, variable.high)
        if word:
            name, low, high = tokens[place].text, variable.low, variable.high
            span = f"{low} or more" if high == UNBOUNDED else f"from {low} to {high}"
            yield f"{name} {operator} {number} is {word} true", f"{name} is {span}"


def _compared(tokens: Sequence[_Token], place: int) -> Iterator[tuple[str, int]]:
    """(operator, number) of a comparison of the name at `place`, read from the name's side."""
    after = _text(tokens, place + 1)
    if after in _FLIPPED and _text(tokens, place - 1) not in _ARITHMETIC:
        number, end = _number(tokens, place + 2)
        if number is not None and _text(tokens, end) not in _ARITHMETIC:
            yield after, number
    before = _text(tokens, place - 1)
    start = place - 2
    if before not in _FLIPPED or after in (*_ARITHMETIC, *_FLIPPED) or start < 0:
        return
    number, _ = _number(tokens, start)
    if number is not None and _text(tokens, start - 1) not in _ARITHMETIC:
        yield _FLIPPED[before], number


def _number(tokens: Sequence[_Token], place: int) -> tuple[int | None, int]:
    """A literal and the place behind it."""
    sign = 1
    if _text(tokens, place) == "-":
        sign, place = -1, place + 1
    if place < len(tokens) and tokens[place].kind == "int" and len(tokens[place].text) <= _DIGITS:
        number = int(tokens[place].text)
        if number <= UNBOUNDED:  # what is larger is no number here, and the library says so
            return sign * number, place + 1
    return None, place


def _always(operator: str, number: int, low: int, high: int) -> str:
    """ "always" or "never"; "": it depends on the request."""
    outside = not low <= number <= high
    always = {
        "==": low == high == number,
        "!=": outside,
        "<": number > high,
        "<=": number >= high,
        ">": number < low,
        ">=": number <= low,
    }[operator]
    never = {
        "==": outside,
        "!=": low == high == number,
        "<": number <= low,
        "<=": number < low,
        ">": number >= high,
        ">=": number > high,
    }[operator]
    return "always" if always else "never" if never else ""


def _words(tokens: Sequence[_Token], place: int, variable: Variable) -> Iterator[tuple[str, str]]:
    if variable.type != "string" or not variable.choices:
        return
    name = tokens[place].text
    for literal in _literals(tokens, place):
        if "\\" not in literal and literal[1:-1] not in variable.choices:
            yield f"{name} is never {literal}", nearest(literal[1:-1], variable.choices)


def _literals(tokens: Sequence[_Token], place: int) -> Iterator[str]:
    """Strings that the name at `place` is compared with."""
    after, before = _text(tokens, place + 1), _text(tokens, place - 1)
    if after in ("==", "!=") and _is_string(tokens, place + 2):
        yield tokens[place + 2].text
    if before in ("==", "!=") and _is_string(tokens, place - 2):
        yield tokens[place - 2].text
    if after == "in" and _text(tokens, place + 2) == "[":
        for token in tokens[place + 3 :]:
            if token.text == "]":
                break
            if token.kind == "string":
                yield token.text


def _text(tokens: Sequence[_Token], place: int) -> str:
    """An operator (or `in`) there; "" for anything else, and outside."""
    if not 0 <= place < len(tokens):
        return ""
    token = tokens[place]
    return token.text if token.kind == "op" or token.text == "in" else ""


def _is_string(tokens: Sequence[_Token], place: int) -> bool:
    return 0 <= place < len(tokens) and tokens[place].kind == "string"
