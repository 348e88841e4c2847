"""The terms of a condition: what its && and || join, each a condition by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exclave_policy.admission import Token, tokenize
from exclave_policy.conditions import Condition, ConditionInvalid, compile_condition

_OPENING, _CLOSING = ("(", "["), (")", "]")


def terms_of(condition: Condition) -> tuple[Condition, ...]:
    """The maximal operands of && and ||, also within brackets and behind `!`, in the order of the
    text, each once. Macros and `? :` are terms: what they hold has no value of its own."""
    source = condition.source
    tokens = tokenize(source)
    starts = _line_starts(source)
    found: dict[str, Condition] = {}
    for low, high in _operands(tokens, 0, len(tokens)):
        first, last = tokens[low], tokens[high - 1]
        text = source[_offset(first, starts) : _offset(last, starts) + len(last.text)]
        if low == 0 and high == len(tokens):
            return (condition,)
        if text not in found:
            try:
                found[text] = compile_condition(text)
            except ConditionInvalid:  # a name with spaces around its dots is shorter as a token
                return (condition,)
    return tuple(found.values())


def _operands(tokens: Sequence[Token], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of tokens."""
    joints = [low - 1]
    depth = 0
    for place in range(low, high):
        token = tokens[place]
        if token.kind != "op":
            continue
        if token.text in _OPENING:
            depth += 1
        elif token.text in _CLOSING:
            depth -= 1
        elif depth == 0 and token.text == "?":
            yield low, high
            return
        elif depth == 0 and token.text in ("&&", "||"):
            joints.append(place)
    if len(joints) > 1:
        for begin, end in zip(joints, [*joints[1:], high], strict=True):
            yield from _operands(tokens, begin + 1, end)
    elif _is(tokens[low], "!") and _primary(tokens, low + 1, high):
        yield from _operands(tokens, low + 1, high)
    elif _enclosed(tokens, low, high):
        yield from _operands(tokens, low + 1, high - 1)
    else:
        yield low, high


def _primary(tokens: Sequence[Token], low: int, high: int) -> bool:
    """Whether `!` is about all of the range: one name or call, or one bracket."""
    if _enclosed(tokens, low, high):
        return True
    depth = 0
    for token in tokens[low:high]:
        if token.kind == "op" and token.text in (*_OPENING, *_CLOSING):
            depth += 1 if token.text in _OPENING else -1
        elif depth == 0 and (token.kind == "op" or token.text == "in"):
            return _is(token, ".") or _is(token, "!")
    return True


def _enclosed(tokens: Sequence[Token], low: int, high: int) -> bool:
    """Whether one pair of brackets holds the whole range."""
    if high - low < 3 or not _is(tokens[low], "("):
        return False
    depth = 0
    for place in range(low, high):
        if tokens[place].kind == "op" and tokens[place].text in _OPENING:
            depth += 1
        elif tokens[place].kind == "op" and tokens[place].text in _CLOSING:
            depth -= 1
            if depth == 0:
                return place == high - 1
    return False


def _is(token: Token, text: str) -> bool:
    return token.kind == "op" and token.text == text


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for place, character in enumerate(source):
        if character == "\n":
            starts.append(place + 1)
    return starts


def _offset(token: Token, starts: Sequence[int]) -> int:
    return starts[token.line - 1] + token.column - 1
