"""Reads text the way a person does: other scripts' digits, odd spaces and invisible characters do
not hide a number. Places in what was read lead back to places in the text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_SPACES = frozenset(map(chr, (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))
_DASHES = frozenset("-\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63\uff0d")


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as it is read."""

    text: str
    places: tuple[int, ...] | None
    """Of each character of `text` in the original; None: they are the same."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a non-empty range of `text` is in the original, half open."""
        if self.places is None:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def read(text: str) -> Reading:
    """ASCII digits, spaces and hyphens for all of their kin; what has no width is left out."""
    if text.isascii():
        return Reading(text, None)
    found: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        plain = _plain(character)
        if plain:
            found.append(plain)
            places.append(place)
    return Reading("".join(found), tuple(places))


def _plain(character: str) -> str:
    """One character, or none."""
    if character.isascii():
        return character
    if character in _SPACES:
        return " "
    if character in _DASHES:
        return "-"
    if unicodedata.category(character) in ("Cf", "Mn"):
        return ""
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    folded = unicodedata.normalize("NFKC", character)
    return folded if len(folded) == 1 else character
