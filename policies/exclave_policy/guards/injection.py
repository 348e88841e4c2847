"""Scores how much a text reads like an attempt to give a model other orders.

Heuristics: named signals with weights (`signals.py`), looked for in a plain reading of the text and
in what its disguises hide (`disguises.py`). A high score is a reason to look, a low one no proof.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from exclave_policy.guards.disguises import plain, spread, undone
from exclave_policy.guards.personal import MAX_TEXT, TooLong
from exclave_policy.guards.signals import SIGNALS

MOST: Final = 100
QUOTED: Final = 0.5
TOLD: Final = 0.7
"""What a signal weighs that is seen in quotes only, and in a text that speaks about attacks; in
quotes of such a text both."""
MOSTLY: Final = 0.6
"""Share of a text in quotes from which on they quote nothing: it is the text."""

_WEIGHT: Final = {each.name: each.weight for each in SIGNALS}
_LITERAL: Final = frozenset({"prefix", "splitting"})
"""Signals that are made of quotes."""
_QUOTES = re.compile(
    r"```[^`]{1,2000}```|`[^`\n]{1,400}`|\"[^\"\n]{1,400}\"|\u201c[^\u201c\u201d\n]{1,400}\u201d|"
    r"\u00ab[^\u00ab\u00bb\n]{1,400}\u00bb|\u201e[^\u201e\u201c\u201d\n]{1,400}[\u201c\u201d]|"
    r"(?<![A-Za-z0-9])['\u2018][^'\u2018\u2019\n]{3,400}['\u2019](?![A-Za-z0-9])"
)
_NEGATED = re.compile(
    r"\b(?:not|never|n't|nicht|nie|niet|nooit|jamais|nunca|mai) (?:to )?"
    r"(?:ignore|disregard|forget|override|skip|delete|discard|bypass|vergessen|negeren)\b"
)
_ABOUT = (
    r"\b(?:prompt[- ]?injections?|injection attacks?|jailbreaks?|jailbreaking|attackers?|attacks?|"
    r"adversar(?:y|ial|ies)|red[- ]?team(?:ing|ers?)?|vulnerabilit(?:y|ies)|owasp|researchers?|"
    r"exploits?|malicious|phishing|hackers?|angreifer|angriffe?|attaquants?|attaques?|atacantes?|"
    r"ataques?|attaccant[ei]|attacc(?:o|hi)|aanvallers?|aanvall(?:en)?|detects?|detector|"
    r"classifier|for example|the phrase|unit tests?|test cases?)\b"
)
_SPREAD = (
    r"(?:ignore|disregard|forget|override|ignoriere|vergiss|oublie|ignorez|ignora|olvida|dimentica|"
    r"negeer|vergeet)(?:all|any|the|your|of|alle|toutes|todas|tutte|les|las|le|deine|tes|tus|tue|je)*"
    r"(?:previous|prior|above|earlier|vorherigen|bisherigen|vorige|eerdere|instruction|consigne|"
    r"instruccion|istruzion|instructie|anweisung|system)(?:s|e|n|i)?(?:instruction|rule|prompt|order|message|"
    r"anweisung|consigne|regla|regel|command|guideline|direct|preced|anterior|text)?",
    r"(?:reveal|show|print|repeat|output|tell|giveme)(?:me|us|the|your|full|entire|my|exact)*"
    r"(?:system|hidden|initial|secret)(?:prompt|instruction|message)",
    r"(?:enable|enter|activate|nowin)(?:the)?(?:jailbreak|god|dan)mode|doanythingnow",
)
_CYRILLIC = "[\u0430-\u045f\u0501\u051b\u051d]"
_UNSEEN = "[a-z][\u200b\u2060\ufeff\u200c\u200d\u180e]{1,8}[a-z]"
_ODD: Final = {
    "tags": "[\U000e0020-\U000e007e]{8,}",
    "invisible": f"{_UNSEEN}[^\n]{{0,80}}{_UNSEEN}|[\u202d\u202e]",
    "mixed_scripts": f"[a-z]{_CYRILLIC}|{_CYRILLIC}[a-z]",
}
"""Signals of characters, over the text in lower case."""


def score(text: str) -> int:
    """0 (nothing seen) to 100. Raises: TooLong beyond MAX_TEXT."""
    total = sum(_WEIGHT[name] * share for name, share in _seen(text).items())
    return min(MOST, round(total))


def signals(text: str) -> tuple[str, ...]:
    """Names of what was seen, in the order of the table. Raises: TooLong beyond MAX_TEXT."""
    seen = _seen(text)
    return tuple(name for name in _WEIGHT if name in seen)


def _seen(text: str) -> dict[str, float]:
    """How much of each signal's weight counts."""
    if len(text) > MAX_TEXT:
        raise TooLong(f"{len(text)} characters are more than {MAX_TEXT}")
    said = _unquoted(text)
    read, outside = _read(text), _read(said)
    told = TOLD if _hit(_one(_ABOUT), outside) else 1.0
    found: dict[str, float] = {}
    for name, pattern in _patterns().items():
        if _hit(pattern, read if name in _LITERAL else outside):
            found[name] = told
        elif said != text and _hit(pattern, read):
            found[name] = told * QUOTED
    strong = _strong().keys()
    if not any(found.get(name) == told for name in strong) and _disguised(said, outside):
        found["disguised"] = 1.0
    elif said != text and strong.isdisjoint(found) and _disguised(text, read):
        found["disguised"] = QUOTED
    lower = "" if text.isascii() else text.lower()
    found |= {name: 1.0 for name, source in _ODD.items() if _hit(_one(source), lower)}
    return found


def _unquoted(text: str) -> str:
    """What is not in quotes; all of it where nearly all is, and nothing outside says why."""
    outside = _QUOTES.sub(" ", text)
    mostly = len(outside) < (1 - MOSTLY) * len(text)
    return text if mostly and not _hit(_one(_ABOUT), plain(outside)) else outside


def _read(text: str) -> str:
    return _heeded(plain(text).replace("\u2019", "'"))


def _heeded(read: str) -> str:
    """Without orders that say not to drop something."""
    return _NEGATED.sub("heed", read)


def _disguised(text: str, read: str) -> bool:
    """Whether a strong signal shows once disguises are undone."""
    if _hit(_one("|".join(_SPREAD)), spread(read)):
        return True
    readings = map(_heeded, undone(text, read))
    return any(_hit(each, other) for other in readings for each in _strong().values())


def _hit(pattern: Any, text: str) -> bool:
    # A lone surrogate has no UTF-8; "?" is in no phrase.
    return pattern.search(text.encode("utf-8", "replace")) is not None


@cache
def _patterns() -> dict[str, Any]:
    return {each.name: _one("|".join(each.patterns)) for each in SIGNALS if each.patterns}


@cache
def _strong() -> dict[str, Any]:
    return {each.name: _patterns()[each.name] for each in SIGNALS if each.strong}


@cache
def _one(source: str) -> Any:
    """RE2: linear in the text, whatever stands in it."""
    import re2

    options = re2.Options()
    options.max_mem = 32 << 20
    options.log_errors = False
    return re2.compile(source.encode(), options)
