"""Reads text the way a person does: other scripts' digits, odd spaces and invisible characters do
not hide a number. Places in what was read lead back to places in the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
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


LAYERS = 3
"""How often escapes may stand within each other: JSON in a string of JSON in a string of JSON."""
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/bfnrt]))')
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A text with its escapes undone once more than the one before."""

    text: str
    spans: tuple[tuple[int, int], ...] | None
    """Of each character in the original, half open; None: they are the same."""
    escapes: tuple[tuple[int, int], ...]
    """What was undone in it: places of the original that must not be cut."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a non-empty range of `text` is in the original, half open."""
        if self.spans is None:
            return start, end
        return self.spans[start][0], self.spans[end - 1][1]


def layers(text: str) -> Iterator[Layer]:
    """The text, and the same without JSON's escapes (RFC 8259, section 7): what is written in a
    string of JSON is not hidden by how it is written there."""
    layer = Layer(text, None, ())
    yield layer
    for _ in range(LAYERS):
        if _ESCAPE.search(layer.text) is None:
            return
        layer = _undone(layer)
        yield layer


def _undone(layer: Layer) -> Layer:
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    escapes: list[tuple[int, int]] = []
    place = 0
    for found in _ESCAPE.finditer(layer.text):
        pieces += layer.text[place : found.start()]
        spans += (layer.span(each, each + 1) for each in range(place, found.start()))
        code, short = found.groups()
        meant = chr(int(code, 16)) if code else _SHORT.get(short, short)
        pieces.append("\ufffd" if "\ud800" <= meant <= "\udfff" else meant)
        spans.append(layer.span(*found.span()))
        escapes.append(spans[-1])
        place = found.end()
    pieces += layer.text[place:]
    spans += (layer.span(each, each + 1) for each in range(place, len(layer.text)))
    return Layer("".join(pieces), tuple(spans), tuple(escapes))


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


def blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with marks that are in no word and no number where something was found."""
    pieces = list(text)
    for start, end in spans:
        pieces[start:end] = ";" * (end - start)
    return "".join(pieces)
