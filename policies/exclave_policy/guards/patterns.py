"""Regular expressions with a bound on their time: RE2's, which never go back.

github.com/google/re2/wiki/Syntax. They run in the library that evaluates conditions, which is
linear in the text whatever the pattern is.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from cel_expr_python import cel

MAX_PATTERN = 512
"""Most characters of a pattern."""
MAX_TEXT = 1024 * 1024
"""Most characters of a text that is looked at."""


class PatternFailed(Exception):
    """Whether the pattern is in the text could not be found out."""


class Pattern:
    """One compiled pattern. Safe to share between threads."""

    __slots__ = ("_expression", "source")

    def __init__(self, source: str) -> None:
        """Raises: ValueError saying what is wrong with it."""
        if not 0 < len(source) <= MAX_PATTERN:
            raise ValueError(f"{len(source)} characters, not 1 to {MAX_PATTERN}")
        if not source.isascii():
            raise ValueError(r"not ASCII: write other characters as \x{00e9}")
        self.source = source
        try:
            self._expression = _environment().compile(f"text.matches({json.dumps(source)})")
            found = self._eval("")
        except Exception:  # noqa: BLE001 - the library raises bare RuntimeErrors; all refuse
            found = None
        if found is None:
            raise ValueError("not a regular expression of RE2: no look-around, no back-references")

    def found(self, text: str) -> bool:
        """Whether it matches anywhere in `text`.

        Raises: PatternFailed; it must count as the worse of the two answers.
        """
        if len(text) > MAX_TEXT:
            raise PatternFailed(f"the text has more than {MAX_TEXT} characters")
        try:
            value = self._eval(text)
        except Exception:  # noqa: BLE001 - as above; a lone surrogate, say
            raise PatternFailed("the text cannot be searched") from None
        if value is None:
            raise PatternFailed("the text cannot be searched")
        return value

    def _eval(self, text: str) -> bool | None:
        value = self._expression.eval(_environment().Activation({"text": text})).value()
        return bool(value) if value is True or value is False else None


def fault(source: str) -> str:
    """What is wrong with a pattern; "" when nothing is."""
    try:
        Pattern(source)
    except ValueError as error:
        return str(error)
    return ""


@cache
def _environment() -> Any:
    return cel.NewEnv(variables={"text": cel.Type.STRING})
