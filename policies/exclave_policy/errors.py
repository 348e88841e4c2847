"""What is wrong with a policy: one `Problem` per fault, all of them raised together.

PolicyInvalid    a pack, a document or its cases cannot be used (problems listed)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault, where it is, and what to do about it."""

    file: str
    """Path inside the pack; "" when the fault is of the pack itself."""
    line: int
    """1-based; 0 when the fault has no place in a text."""
    column: int
    """1-based, in characters; 0 when the fault has no place in a text."""
    path: str
    """Where in the document, e.g. "spec.rules[2].effect"; "" for the whole document."""
    message: str
    """Lower case; names the field and the value's shape."""
    fix: str
    """What to do, in one sentence; "" when the message says it all."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = " ".join(part for part in (f"{place}:" if place else "", self.path) if part)
        text = f"{head}: {self.message}" if self.path else f"{head} {self.message}".strip()
        return f"{text} ({self.fix})" if self.fix else text


class PolicyInvalid(Exception):
    """The pack must not be used; `problems` lists every fault, in the order of the text."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.file, p.line, p.column, p.path))
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the policy"]
        super().__init__("\n".join([*lines, *map(str, self.problems)]))


def refuse(message: str, fix: str = "", *, file: str = "") -> PolicyInvalid:
    """A `PolicyInvalid` of one fault that has no line."""
    return PolicyInvalid([Problem(file, 0, 0, "", message, fix)])


MAX_KNOWN = 16
"""Most names that a fault lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean ...?" for the closest known name, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:64], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = len(names) - MAX_KNOWN
    rest = f" and {more} more" if more > 0 else ""
    return f"known here: {', '.join(names[:MAX_KNOWN])}{rest}"
