"""Words for a model that finds persons and addresses, and what its labels say of the text.

The model is somebody else's: it takes words and gives one label a word. Where the words are, which
labels mean what, and how labels are joined is decided here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from exclave_policy.guards.personal import MAX_TEXT, Finding, TooLong

MAX_WORDS: Final = 262_144
"""Most words of one text."""
MAX_LETTERS: Final = 128
"""Most characters of one word: a longer run is several words."""
KIND_OF: Final = {
    "PER": "person",
    "PERS": "person",
    "PERSON": "person",
    "LOC": "address",
    "LOCATION": "address",
    "GPE": "address",
    "ADDRESS": "address",
    "ADDR": "address",
    "STREET": "address",
}
"""What a label finds, without its prefix and in capitals. Labels that are not here find nothing."""

_BEGINS, _CONTINUES = "BSU", "IEL"
"""Prefixes of labels: BIO, and what BIOES and BILOU add to it."""
_JOINTS = frozenset("'\u2019-\u2010\u2011")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text."""

    text: str
    """As a model is shown it: in composed form (NFC), without invisible characters."""
    start: int
    """Of its first character in the text."""
    end: int
    """Of the character after its last."""


def words(text: str) -> tuple[Word, ...]:
    """The words of `text`, in order: runs of letters and digits, joined by a hyphen or an
    apostrophe inside; every other visible character is a word by itself.

    Raises: TooLong beyond MAX_TEXT or MAX_WORDS.
    """
    if len(text) > MAX_TEXT:
        raise TooLong(f"{len(text)} characters are more than {MAX_TEXT}")
    found: list[Word] = []
    place, size = 0, len(text)
    while place < size:
        sort = _sort(text[place])
        if sort == "space":
            place += 1
            continue
        end = _end(text, place) if sort == "letter" else place + 1
        shown = _shown(text[place:end])
        if shown:
            if len(found) == MAX_WORDS:
                raise TooLong(f"more than {MAX_WORDS} words")
            found.append(Word(shown, place, end))
        place = end
    return tuple(found)


def entities(words: Sequence[Word], labels: Sequence[str]) -> tuple[Finding, ...]:
    """What a model found: its labels, one for each word, joined to findings.

    `B-PER` begins a finding and `I-PER` goes on with it; one that has nothing to go on with
    begins as well, and so does a label without a prefix. Raises: ValueError where there is not one
    label for each word.
    """
    if len(words) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(words)} words")
    found: list[Finding] = []
    open_kind = ""
    for word, label in zip(words, labels, strict=True):
        begins, kind = _read(label)
        if kind and kind == open_kind and not begins:
            found[-1] = Finding(kind, found[-1].start, word.end)
        elif kind:
            found.append(Finding(kind, word.start, word.end))
        open_kind = kind
    return tuple(found)


def _end(text: str, place: int) -> int:
    """Behind the word that begins at `place`."""
    end, last = place + 1, min(len(text), place + MAX_LETTERS)
    while end < last:
        if _sort(text[end]) == "letter":
            end += 1
        elif text[end] in _JOINTS and end + 1 < last and _sort(text[end + 1]) == "letter":
            end += 2
        else:
            break
    return end


@lru_cache(maxsize=4096)
def _sort(character: str) -> str:
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    # Marks and what has no width belong to the word that they are in.
    return "letter" if category[0] in "LNM" or category == "Cf" else "mark"


def _shown(piece: str) -> str:
    if piece.isascii():
        return piece
    visible = "".join(each for each in piece if unicodedata.category(each) != "Cf")
    return unicodedata.normalize("NFC", visible)


def _read(label: str) -> tuple[bool, str]:
    """Whether it begins a finding, and of which kind; "": of none."""
    name = label.strip().upper()
    prefix, dash, rest = name.partition("-")
    if dash and prefix in (*_BEGINS, *_CONTINUES):
        return prefix in _BEGINS, KIND_OF.get(rest, "")
    return False, KIND_OF.get(name, "")
