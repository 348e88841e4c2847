"""Replaces personal data by tokens, and gives an answer its values back."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from exclave_policy.guards.personal import Finding, find
from exclave_policy.kinds.redactions import Redaction

_NAME = "[A-Z][A-Z_]{0,15}_(?:[0-9]{1,6}|[0-9a-f]{12})"
_TOKEN = re.compile(f"<{_NAME}>")
_PARTIAL = re.compile(r"<(?:[A-Z][A-Z_]{0,15}(?:_[0-9a-f]{0,12})?)?\Z")
# Some that write JSON (Go's encoding/json) escape angle brackets; in JSON within a string of JSON
# the escape's backslash is escaped too.
_RUN = r"(?<!\\)\\{1,8}"
_TOKEN_IN_JSON = re.compile(rf"(?:<|({_RUN})u003[cC])({_NAME})(?:>|{_RUN}u003[eE])")
_ESCAPE_BEGUN = rf"{_RUN}(?:u(?:0(?:0(?:3)?)?)?)?"
_PARTIAL_IN_JSON = re.compile(
    rf"(?:{_ESCAPE_BEGUN}|(?:<|{_RUN}u003[cC])"
    rf"(?:[A-Z][A-Z_]{{0,15}}(?:_[0-9a-f]{{0,12}}(?:{_ESCAPE_BEGUN})?)?)?)\Z"
)
_LONGEST = 64
"""More characters than the longest token has, its escapes included."""
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|([/\"]))")


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
            self._taken.update(f"<{found[2]}>" for found in _TOKEN_IN_JSON.finditer(text))

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
        """Value by token, as it was first written, without JSON's escapes: for the vault alone."""
        return MappingProxyType(self._values)

    def restorer(self) -> Restorer:
        """For one answer."""
        return Restorer(self._values)

    def _token(self, kind: str, written: str) -> str:
        meant = _meant(written)
        value = (kind, normal(kind, meant))
        token = self._token_of.get(value)
        if token is None:
            token = self._token_of[value] = self._new(*value)
            self._values[token] = meant
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

    def __init__(self, values: Mapping[str, str], *, in_json: bool = False) -> None:
        """`in_json`: the answer is JSON; values become parts of its strings."""
        self._values = values
        self._in_json = in_json
        self._token = _TOKEN_IN_JSON if in_json else _TOKEN
        self._partial = _PARTIAL_IN_JSON if in_json else _PARTIAL
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may leave now: never half a token."""
        text = self._held + piece
        cut = self._partial.search(text, max(0, len(text) - _LONGEST))
        end = len(text) if cut is None else cut.start()
        self._held = text[end:]
        return self._restored(text[:end])

    def flush(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._restored(text)

    def _restored(self, text: str) -> str:
        return self._token.sub(self._quoted if self._in_json else self._plain, text)

    def _plain(self, found: re.Match[str]) -> str:
        return self._values.get(found.group(), found.group())

    def _quoted(self, found: re.Match[str]) -> str:
        """As it stands inside a string of JSON, or of JSON within that: each of them doubles the
        backslashes of the escape."""
        run = len(found.group(1) or "\\")
        value = self._values.get(f"<{found.group(2)}>")
        if value is None:
            return found.group()
        own = run & -run
        for _ in range(own.bit_length()):
            value = json.dumps(value, ensure_ascii=False)[1:-1]
        return "\\" * (run - own) + value


def _meant(written: str) -> str:
    """Without the escapes of JSON, however deep: the same value has the same token, and comes back
    as what it is."""
    if "\\" not in written:
        return written
    plain = _ESCAPED.sub(lambda found: found[2] or chr(int(found[1], 16)), written)
    # Two escapes may be the halves of one character.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def normal(kind: str, written: str) -> str:
    """What makes two writings the same value."""
    text = unicodedata.normalize("NFKC", written)
    if kind == "email":
        return text.casefold()
    if kind in ("card", "iban", "national_id", "phone"):
        return "".join(each for each in text if each.isalnum() or each == "+").upper()
    return " ".join(text.split()).casefold()
