"""Finds what a text quotes that its source does not say: amounts, dates, ids.

A number is compared by its value, a date by its day, an id by its letters and digits: another way
of writing the same is the same. Whether a quote is used rightly, nobody can tell from its spelling.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Final

from exclave_policy.guards.personal import TooLong
from exclave_policy.guards.reading import blanked, read
from exclave_policy.kinds.validators import Quoted

MAX_GROUNDED: Final = 256 * 1024
"""Most characters of either text."""
SMALLEST: Final = 10
"""A plain whole number below it is a count or an ordinal, and quotes nothing."""
_WINDOW: Final = 8
"""Most groups of letters and digits that one id is written in."""
_MONTHS: Final = {
    1: "january jan januar janvier janv enero ene gennaio gen januari",
    2: "february feb februar février fevrier févr fevr febrero febbraio februari",
    3: "march mar märz maerz mrz mars marzo maart mrt",
    4: "april apr avril avr abril abr aprile",
    5: "may mai mayo maggio mag mei",
    6: "june jun juni juin junio giugno giu",
    7: "july jul juli juillet juil julio luglio lug",
    8: "august aug août aout agosto ago augustus",
    9: "september sep sept septembre septiembre settembre set",
    10: "october oct oktober okt octobre octubre ottobre ott",
    11: "november nov novembre noviembre",
    12: "december dec dezember dez décembre decembre déc diciembre dic dicembre",
}
_MONTH_OF: Final = {name: month for month, names in _MONTHS.items() for name in names.split()}
_NAMES: Final = "|".join(sorted(_MONTH_OF, key=len, reverse=True))
_EDGE = r"(?<![0-9A-Za-z])"
_END = r"(?![0-9A-Za-z])"
_DATES = re.compile(
    rf"{_EDGE}(?:(?P<y>[0-9]{{4}})[-/.](?P<m>[0-9]{{1,2}})[-/.](?P<d>[0-9]{{1,2}})"
    rf"(?:T[0-9]{{2}}:[0-9]{{2}}(?::[0-9]{{2}})?(?:\.[0-9]+)?(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?|"
    rf"(?P<a>[0-9]{{1,2}})(?P<s>[-/.]) ?(?P<b>[0-9]{{1,2}})(?P=s) ?(?P<c>[0-9]{{4}}|[0-9]{{2}})|"
    rf"(?P<d2>[0-9]{{1,2}})(?:\.|st|nd|rd|th|er|º)? (?:de |of )?(?P<m2>{_NAMES})\.?,? "
    rf"(?:de |del )?(?P<y2>[0-9]{{4}})|"
    rf"(?P<m3>{_NAMES})\.? (?P<d3>[0-9]{{1,2}})(?:st|nd|rd|th)?,? (?P<y3>[0-9]{{4}})){_END}",
    re.IGNORECASE,
)
_IDS = re.compile(
    # An IBAN in groups, a card's number in groups, or one word with a digit and something else.
    rf"{_EDGE}(?:[A-Za-z]{{2}}[0-9]{{2}}(?: [A-Za-z0-9]{{4}}){{2,7}}(?: [A-Za-z0-9]{{1,4}})?{_END}|"
    rf"[0-9]{{4}}(?:[ -][0-9]{{4}}){{2,3}}{_END}|"
    r"[0-9A-Za-z]+(?:[-/_#][0-9A-Za-z]+){0,7})"
)
_TIMES = re.compile(rf"{_EDGE}[0-9]{{1,2}}:[0-9]{{2}}(?::[0-9]{{2}})?{_END}")
_ORDINALS = re.compile(rf"{_EDGE}[0-9]{{1,4}}(?:st|nd|rd|th|er|ème|º|ª)(?![0-9A-Za-z])")
_CODES: Final = "EUR|USD|GBP|CHF|JPY|SEK|NOK|DKK|PLN|CZK|INR|CAD|AUD"
_CURRENCY: Final = rf"[$€£¥₹]|\b(?:{_CODES})\b"
_MEASURED = re.compile(
    # A number with what it counts is no id, though both are letters and digits.
    rf"(?:{_CODES})?[0-9]+(?:{_CODES}|[kmcn]?[mgl]|k|m|bn|k?wh?|mwh?|[kmgt]b|h|min|ms|s|pcs|x)?",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    rf"(?P<before>(?:{_CURRENCY}|(?<![0-9A-Za-z])(?:{_CODES})) ?)?"
    r"(?:(?<=[A-Z]{3})|(?<![0-9A-Za-z])(?<![0-9][.,]))"
    r"(?P<number>(?:[.,](?=[0-9]))?[0-9]+(?:[.,'\u2019\u00a0 ][0-9]{3}(?![0-9])){0,5}"
    r"(?:[.,][0-9]+)?)(?![0-9])"
    rf"(?P<after> ?(?:{_CURRENCY}|%)|(?:{_CODES})\b)?"
)
_ANY_NUMBER = re.compile(
    r"(?:[.,](?=[0-9]))?[0-9]+(?:[.,'\u2019\u00a0 ][0-9]{3}(?![0-9])){0,5}(?:[.,][0-9]+)?"
)
_WHOLE = re.compile(r"(?<![0-9])(?<![0-9][.,])[0-9]{1,40}(?![0-9]|[.,][0-9])")
_RUN = re.compile(r"[0-9A-Za-z]+")


def missing(text: str, source: str, quotes: Collection[Quoted]) -> dict[Quoted, int]:
    """How many different amounts, dates and ids `text` quotes that are not in `source`; only the
    kinds of `quotes`, and of those only what is missing.

    Raises: TooLong beyond MAX_GROUNDED.
    """
    for each in (text, source):
        if len(each) > MAX_GROUNDED:
            raise TooLong(f"{len(each)} characters are more than {MAX_GROUNDED}")
    said, known = _Parts(read(text).text), _Parts(read(source).text)
    found: dict[Quoted, int] = {}
    if "dates" in quotes:
        _count(found, "dates", _unknown_dates(said, known))
    if "ids" in quotes:
        _count(found, "ids", _unknown_ids(set(said.ids.values()), known.text))
    if "amounts" in quotes:
        _count(found, "amounts", _unknown_amounts(said, known))
    return found


class _Parts:
    """A text, and what of it is a date, an id, or neither. Both texts are taken apart alike, so
    that what is quoted word for word is never missing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.dates = list(_dated(text))
        self.undated = blanked(text, (span for span, _ in self.dates))
        self.ids = dict(_identified(self.undated))

    @property
    def amounts(self) -> Iterator[tuple[str, frozenset[Decimal]]]:
        """As they are written, and what each can mean."""
        return _quoted(blanked(self.undated, self.ids))

    @property
    def numbers(self) -> set[Decimal]:
        """All of them, but for those within dates and lettered ids, which count nothing."""
        lettered = (span for span, normal in self.ids.items() if not normal.isdigit())
        text = blanked(self.undated, lettered)
        known = {value for each in _ANY_NUMBER.finditer(text) for value in _values(each.group())}
        return known | {Decimal(each) for each in _WHOLE.findall(text)}


def _count(found: dict[Quoted, int], quote: Quoted, unknown: int) -> None:
    if unknown:
        found[quote] = unknown


# --- dates ---------------------------------------------------------------------------------------


def _dated(text: str) -> Iterator[tuple[tuple[int, int], frozenset[date]]]:
    """Where dates are, and the days that each can mean: 3/4 is two."""
    for found in _DATES.finditer(text):
        days = frozenset(_days(found))
        if days:
            yield found.span(), days


def _days(found: re.Match[str]) -> Iterator[date]:
    part = found.groupdict()
    readings: list[tuple[str, str | int, str]] = []
    if part["y"]:
        readings.append((part["y"], part["m"], part["d"]))
    elif part["a"]:
        readings.append((part["c"], part["b"], part["a"]))
        readings.append((part["c"], part["a"], part["b"]))
    elif part["m2"]:
        readings.append((part["y2"], _MONTH_OF[part["m2"].lower()], part["d2"]))
    else:
        readings.append((part["y3"], _MONTH_OF[part["m3"].lower()], part["d3"]))
    for year, month, day in readings:
        full = int(year) + (2000 if len(year) == 2 else 0)
        try:
            yield date(full, int(month), int(day))
        except ValueError:
            continue  # no such day, so not what was meant


def _unknown_dates(said: _Parts, source: _Parts) -> int:
    known = {day for _, days in source.dates for day in days}
    return len({days for _, days in said.dates if known.isdisjoint(days)})


# --- ids -----------------------------------------------------------------------------------------


def _identified(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Where ids are, and their letters and digits."""
    for found in _IDS.finditer(text):
        normal = _normal(found.group())
        digits = any(each.isdigit() for each in normal)
        plain = found.group().isdigit() or _MEASURED.fullmatch(found.group())
        if len(normal) >= 5 and digits and not plain:
            yield found.span(), normal


def _normal(written: str) -> str:
    return "".join(_RUN.findall(written)).upper()


def _unknown_ids(wanted: set[str], source: str) -> int:
    """An id may be written in several groups; it never begins or ends within one."""
    left = set(wanted)
    runs = [each.upper() for each in _RUN.findall(source)] if left else []
    longest = max(map(len, left), default=0)
    for start in range(len(runs)):
        joined = ""
        for run in runs[start : start + _WINDOW]:
            joined += run
            if len(joined) > longest:
                break
            left.discard(joined)
    return len(left)


# --- amounts -------------------------------------------------------------------------------------


def _unknown_amounts(said: _Parts, source: _Parts) -> int:
    quoted = {values for _, values in source.amounts}
    known = source.numbers
    return len(
        {
            values
            for written, values in said.amounts
            if values not in quoted
            and known.isdisjoint(values)
            and not _parts_known(written, known)
        }
    )


def _quoted(text: str) -> Iterator[tuple[str, frozenset[Decimal]]]:
    """Amounts as they are written, and what each can mean."""
    text = _TIMES.sub(" ; ", _ORDINALS.sub(" ; ", text))
    for found in _NUMBERS.finditer(text):
        written = found.group("number")
        small = written.isdigit() and len(written) < 3 and int(written) < SMALLEST
        if not small or found.group("before") or found.group("after"):
            yield written, frozenset(_values(written))


def _parts_known(written: str, known: Collection[Decimal]) -> bool:
    """Numbers beside each other may be one with spaces in it, or several."""
    parts = written.replace("\u00a0", " ").split(" ")
    return len(parts) > 1 and all(_is_known(part, known) for part in parts)


def _is_known(written: str, known: Collection[Decimal]) -> bool:
    return any(value in known for value in _values(written))


def _values(written: str) -> Iterator[Decimal]:
    """What a number can mean: "1,234" is one thousand and something, or one and something; a mark
    before three digits may group them, any other one begins the fraction."""
    if len(written) > 64:
        return
    plain = re.sub("['\u2019\u00a0 ]", "", written)
    for grouping, point in ((",", "."), (".", ",")):
        reading = re.sub(rf"[{grouping}](?=[0-9]{{3}}(?![0-9]))", "", plain)
        if grouping in reading or reading.count(point) > 1:
            continue
        try:
            yield Decimal(reading.replace(point, "."))
        except InvalidOperation:
            continue
