"""National ids, by country: a shape, a checksum and, where that is weak, a word nearby."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

CUE_DISTANCE = 48
"""How many characters before a number its word may begin."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of id."""

    pattern: re.Pattern[str]
    module: str
    """Of python-stdnum, whose `is_valid` judges; "": the shape says it all."""
    cues: tuple[str, ...] = ()
    """Lower-case words of which one must stand before it; none: the checksum is enough."""


def _shape(pattern: str, module: str, *cues: str) -> Shape:
    # No digit or letter beside it: a part of a longer number is none.
    return Shape(re.compile(rf"(?<![0-9A-Za-z]){pattern}(?![0-9A-Za-z])"), module, cues)


_NINO = (
    r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
    r" ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
)
SHAPES: dict[str, tuple[Shape, ...]] = {
    "AT": (_shape(r"[0-9]{4} ?[0-9]{6}", "at.vnr", "sv-n", "svnr", "versicherungsn"),),
    "AU": (_shape(r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "au.tfn", "tfn", "tax file"),),
    "BE": (
        _shape(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", "be.nn"),
        _shape(r"[0-9]{11}", "be.nn", "rijksregister", "registre national", "national n"),
    ),
    "BR": (
        _shape(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf"),
        _shape(r"[0-9]{11}", "br.cpf", "cpf"),
    ),
    "CA": (_shape(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", "ca.sin", "sin", "social insurance"),),
    "CH": (_shape(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", "ch.ssn"),),
    "DE": (
        _shape(
            r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
            "de.idnr",
            *("steuer-id", "steuer-ident", "steueridentifikation", "idnr", "tin", "tax id"),
        ),
    ),
    "DK": (_shape(r"[0-9]{6}-?[0-9]{4}", "dk.cpr", "cpr", "personnummer"),),
    "ES": (
        _shape(r"[0-9]{8}-?[A-Z]", "es.dni"),
        _shape(r"[XYZ]-?[0-9]{7}-?[A-Z]", "es.nie"),
    ),
    "FI": (_shape(r"[0-9]{6}[-+A][0-9]{3}[0-9A-Y]", "fi.hetu"),),
    "FR": (
        _shape(
            r"[12] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir"
        ),
    ),
    "GB": (
        _shape(_NINO, ""),
        _shape(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", "gb.nhs", "nhs"),
    ),
    "IN": (
        _shape(r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", "in_.aadhaar", "aadhaar", "uidai"),
        _shape(r"[A-Z]{5}[0-9]{4}[A-Z]", "in_.pan"),
    ),
    "IT": (
        _shape(
            r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
            "it.codicefiscale",
        ),
    ),
    "NL": (_shape(r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}", "nl.bsn", "bsn", "burgerservice", "sofi"),),
    "PL": (_shape(r"[0-9]{11}", "pl.pesel", "pesel"),),
    "PT": (_shape(r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "pt.nif", "nif", "contribuinte"),),
    "SE": (
        _shape(r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}", "se.personnummer"),
        _shape(r"[0-9]{12}", "se.personnummer", "personnummer"),
    ),
    "US": (
        _shape(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "us.ssn"),
        _shape(r"[0-9]{3} ?[0-9]{2} ?[0-9]{4}", "us.ssn", "ssn", "social security"),
    ),
}
"""By ISO 3166 alpha-2."""


def national_ids(text: str, lower: str, country: str) -> Iterator[tuple[int, int]]:
    """Places of a country's ids. `lower`: the same text in lower case, as long as it."""
    for shape in SHAPES.get(country, ()):
        for found in shape.pattern.finditer(text):
            if shape.cues and not cued(lower, found.start(), shape.cues):
                continue
            if not shape.module or _valid(shape.module, found.group()):
                yield found.span()


def cued(lower: str, start: int, cues: tuple[str, ...], *, next_to: bool = False) -> bool:
    """Whether one of the words stands before `start`, in the same line; `next_to`: with no other
    number between."""
    before = lower[max(0, start - CUE_DISTANCE) : start].rpartition("\n")[2]
    if next_to:
        before = re.split("[0-9]", before)[-1]
    return any(re.search(rf"(?<![a-z]){re.escape(cue)}", before) for cue in cues)


def _valid(module: str, number: str) -> bool:
    return bool(_judge(module)(number))


@cache
def _judge(module: str) -> Callable[[str], bool]:
    judge: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return judge
