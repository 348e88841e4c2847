"""Undoes what hides words from a reader of patterns: other scripts' letters, digits for letters,
spread letters, invisible characters, and encodings. Every step is linear in the text."""

# ruff: noqa: RUF001 - letters that look alike are what this is about
from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

_LIKE: Final = {
    pair[0]: pair[1]
    for pair in (
        *("аa", "вb", "гr", "еe", "зz", "іi", "јj", "кk", "лl", "мm", "нh", "оo", "пn", "рp"),
        *("сc", "тt", "уy", "хx", "ьb", "һh", "ѕs", "ԁd", "ԛq", "ԝw", "ѵv", "ҝk", "ԍg", "ӏl"),
        *("αa", "βb", "γy", "εe", "ζz", "ηn", "ιi", "κk", "νv", "οo", "ρp", "σo", "τt", "υu"),
        *("χx", "ωw", "ıi", "ȷj", "ɑa", "ɡg", "ɩi", "ʀr", "ɴn", "ʏy", "ⅼl", "ƅb", "ɪi", "ᴇe"),
        *("ᴏo", "ꜱs", "ᴛt", "ᴜu", "ᴀa", "ᴘp", "ᴍm", "ᴠv", "ᴄc", "ᴅd", "ᴋk", "ɢg", "ʟl", "ʙb"),
    )
}
"""Letters that look like Latin ones, in lower case."""
_KEPT: Final = 16_384
"""Characters whose folding is remembered."""


class _Fold(dict[int, str]):
    """What a character is folded to, for `str.translate`: worked out once, when it is met."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        self._bare = bare

    def __missing__(self, code: int) -> str:
        folded = self._folded(chr(code))
        if len(self) < _KEPT:
            self[code] = folded
        return folded

    def _folded(self, character: str) -> str:
        if self._bare and unicodedata.category(character) in ("Cf", "Cc") and character != "\n":
            return " " if character == "\t" else ""
        marked = unicodedata.normalize("NFKD", character).casefold()
        plain = "".join(each for each in marked if unicodedata.category(each) != "Mn")
        return "".join(_LIKE.get(each, each) for each in plain) if self._bare else plain


_PLAIN, _BARE = _Fold(bare=False), _Fold(bare=True)
_LEET: Final = (
    str.maketrans("01345789@$!|+€", "oieastbgasilte"),
    str.maketrans("01345789@$!|+€", "oleastbgasllte"),
)
_INSIDE = re.compile(r"(?<=[a-z])[-._*~|/\\^]{1,2}(?=[a-z])")
_SPREAD = re.compile(r"(?<=\b[a-z])[ ._*~|,/-](?=[a-z]\b)")
_RUN = re.compile(r"\b[a-z](?:[^a-z0-9\n]{1,3}[a-z]\b){7,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[ ,:]?){12,}")
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,31});?")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")


def plain(text: str) -> str:
    """As a person reads it: lower case, without accents. Compatible forms (full width,
    mathematical letters, circled ones) are what they stand for."""
    return text.lower() if text.isascii() else text.translate(_PLAIN)


def undone(text: str, read: str) -> Iterator[str]:
    """Other readings of `text`, in lower case; `read`: its plain one."""
    bare = text.translate(_BARE)
    if bare != read:
        yield bare
    yield from (bare.translate(table) for table in _LEET)
    yield _INSIDE.sub("", _SPREAD.sub("", bare))
    yield codecs.encode(bare, "rot13")
    yield bare[::-1]
    for piece in _decoded(text):
        yield plain(piece)


def spread(text: str) -> str:
    """The letters of its runs of single letters ("i g n o r e"), without what divides them: a line
    for each run. `text`: a plain reading."""
    bare = text.translate(_BARE).translate(_LEET[0])
    return "\n".join(re.sub("[^a-z]+", "", found.group()) for found in _RUN.finditer(bare))


def _decoded(text: str) -> Iterator[str]:
    """What was encoded in it, one layer deep."""
    tags = "".join(_TAGS.findall(text)) if not text.isascii() else ""
    if tags:
        yield "".join(chr(ord(each) - 0xE0000) for each in tags)
    if "%" in text:
        yield unquote(text, errors="replace")
    if "&" in text:
        yield _ENTITY.sub(lambda found: html.unescape(found.group()), text)
    if "\\" in text:
        yield _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    yield "".join(_from_base64(found.group()) for found in _BASE64.finditer(text))
    yield "".join(_from_hex(found.group()) for found in _HEX.finditer(text))


def _from_base64(blob: str) -> str:
    letters = blob.rstrip("=").replace("-", "+").replace("_", "/")
    whole = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        return _words(base64.b64decode(whole + "=" * (-len(whole) % 4)))
    except binascii.Error:
        return ""


def _from_hex(blob: str) -> str:
    digits = re.sub(r"0x|\\x|[ ,:]", "", blob)
    return _words(bytes.fromhex(digits)) if len(digits) % 2 == 0 else ""


def _words(data: bytes) -> str:
    """Text, if it is any: most bytes are none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""
    return f"{text} " if all(each.isprintable() or each.isspace() for each in text) else ""
