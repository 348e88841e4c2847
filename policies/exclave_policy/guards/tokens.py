"""Replaces personal data by tokens, and gives an answer its values back."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from exclave_policy.guards.personal import Finding, find
from exclave_policy.kinds.redactions import Redaction

_TOKEN = re.compile(r"<([A-Z][A-Z_]{0,15})_([0-9]{1,6}|[0-9a-f]{12})>")
_LONGEST = 32
"""Characters of the longest token."""
_PARTIAL = re.compile(r"<(?:[A-Z][A-Z_]{0,15}(?:_[0-9a-f]{0,12})?)?\Z")


class Tokens:
    """The tokens of one request: the same value has the same token in all of its texts.

    MUST: a token of the caller's own writing never stands for somebody's value. Before the first
    text is replaced, `reserve` takes them out of use.
    """

    def __init__(self, redaction: Redaction, key: bytes) -> None:
        """`key`: what "keyed" tokens are made with; 32 bytes."""
        self._redaction = redaction
        self._key = key
        self._token_of: dict[tuple[str, str], str] = {}
        self._values: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        self._taken: set[str] = set()

    def reserve(self, texts: Sequence[str]) -> None:
        """Every text of the request, before any is replaced."""
        for text in texts:
            self._taken.update(found.group() for found in _TOKEN.finditer(text))

    def replace(self, text: str, entities: Sequence[Finding] = ()) -> str:
        """The text with tokens. `entities`: what a model found in it.

        Raises: TooLong; then the text must not be sent.
        """
        redaction = self._redaction
        found = find(text, redaction.kinds, redaction.countries, redaction.patterns, entities)
        pieces: list[str] = []
        place = 0
        for each in found:
            pieces += (
                text[place : each.start],
                self._token(each.kind, text[each.start : each.end]),
            )
            place = each.end
        pieces.append(text[place:])
        return "".join(pieces)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many different values there are, by kind."""
        return Counter(kind for kind, _ in self._token_of)

    @property
    def values(self) -> Mapping[str, str]:
        """Value by token, as it was first written: for the vault alone."""
        return MappingProxyType(self._values)

    def restorer(self) -> Restorer:
        """For one answer."""
        return Restorer(self._values)

    def _token(self, kind: str, written: str) -> str:
        value = (kind, normal(kind, written))
        token = self._token_of.get(value)
        if token is None:
            token = self._token_of[value] = self._new(*value)
            self._values[token] = written
        return token

    def _new(self, kind: str, value: str) -> str:
        name = kind.upper()
        if self._redaction.tokens == "keyed":
            told = f"{kind}\x00{value}".encode("utf-8", "surrogatepass")
            token = f"<{name}_{hmac.digest(self._key, told, hashlib.sha256).hex()[:12]}>"
            if token not in self._taken and token not in self._values:
                return token
        while True:
            self._numbers[kind] += 1
            token = f"<{name}_{self._numbers[kind]}>"
            if token not in self._taken:
                return token


class Restorer:
    """Puts values back into an answer that comes in pieces, cut anywhere."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may leave now: never half a token."""
        text = self._held + piece
        cut = _PARTIAL.search(text, max(0, len(text) - _LONGEST))
        end = len(text) if cut is None else cut.start()
        self._held = text[end:]
        return self._restored(text[:end])

    def flush(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._restored(text)

    def _restored(self, text: str) -> str:
        return _TOKEN.sub(lambda found: self._values.get(found.group(), found.group()), text)


def normal(kind: str, written: str) -> str:
    """What makes two writings the same value."""
    text = unicodedata.normalize("NFKC", written)
    if kind == "email":
        return text.casefold()
    if kind in ("card", "iban", "national_id", "phone"):
        return "".join(each for each in text if each.isalnum() or each == "+").upper()
    return " ".join(text.split()).casefold()
