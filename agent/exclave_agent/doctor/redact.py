"""Takes secrets out of what goes into a support bundle, by their shape; pure.

It is the second wall. The first is that nothing is collected that may hold a request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

_RUN: Final = (
    "(?<![{most}]){first}(?=[{most}]*[A-Z])(?=[{most}]*[a-z])(?=[{most}]*[0-9])"
    "[{most}]{{40,}}={{0,2}}"
)
_RULES: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    (
        "pem block",
        re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.S),
    ),
    ("join token", re.compile(r"exj[0-9]+\.[A-Za-z0-9_=.-]+")),
    ("api key", re.compile(r"exk_[A-Za-z0-9_-]+")),
    (
        "authorization",
        re.compile(r"(?i)\b(?:bearer|basic|digest|negotiate)\s+[A-Za-z0-9+/._~=-]{8,}"),
    ),
    ("url password", re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")),
    ("json web token", re.compile(r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")),
    (
        "foreign key",
        re.compile(r"\b(?:sk-|gh[pousr]_|glpat-|xox[abprs]-|AKIA|hf_)[A-Za-z0-9_-]{12,}"),
    ),
    (
        "assigned secret",
        re.compile(
            r"(?i)(?<![a-z])(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|credential)"
            r"\s*[=:]\s*(?!\[redacted)[^\s,;\"']{4,}"
        ),
    ),
    # Keys without any mark: a long run that mixes cases and digits, which no name or hex digest
    # of ours does. A run that begins with a slash is a path; what lies between slashes may not be.
    ("key material", re.compile(_RUN.format(most="A-Za-z0-9+/_-", first="(?!/)"))),
    ("key material", re.compile(_RUN.format(most="A-Za-z0-9+_-", first=""))),
)
_SECRET_FIELD: Final = re.compile(
    r"(?i)(?:^|[_-])(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|authorization|cookie|"
    r"private[_-]?key|credential)$"
)


class Redactor:
    """Redacts texts and counts what it took, by kind."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """`names`: words to replace as well -> what stands for them."""
        self.counts: Counter[str] = Counter()
        self._names = [
            (re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])"), instead)
            # A name that holds another goes first.
            for word, instead in sorted((names or {}).items(), key=lambda one: -len(one[0]))
            if word
        ]

    def text(self, text: str) -> str:
        """The text without secrets. Twice is as good as once."""
        for kind, pattern in _RULES:
            text, count = pattern.subn(f"[redacted {kind}]", text)
            self._count(kind, count)
        for pattern, instead in self._names:
            text, count = pattern.subn(instead, text)
            self._count("name", count)
        return text

    def value(self, value: Any) -> Any:
        """The same for every text of a JSON value, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._field(key, inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value

    def _field(self, key: object, value: Any) -> Any:
        if isinstance(value, str) and value and _SECRET_FIELD.search(str(key)):
            self._count("secret field", 1)
            return "[redacted secret field]"
        return self.value(value)

    def _count(self, kind: str, count: int) -> None:
        if count:
            self.counts[kind] += count
