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

from exclave_policy.guards.personal import MAX_TEXT, TooLong
from exclave_policy.guards.reading import read
from exclave_policy.kinds.validators import Quoted

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
    rf"{_EDGE}(?:(?P<y>[0-9]{{4}})[-/.](?P<m>[0-9]{{1,2}})[-/.](?P<d>[0-9]{{1,2}})|"
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
_CURRENCY = r"[$€£¥₹]|\b(?:EUR|USD|GBP|CHF|JPY|SEK|NOK|DKK|PLN|CZK|INR|CAD|AUD)\b"
_NUMBERS = re.compile(
    rf"(?P<before>(?:{_CURRENCY}) ?)?(?<![0-9A-Za-z.,])(?P<number>[0-9]+"
    r"(?:[.,'\u2019\u00a0 ][0-9]{3}(?![0-9]))*(?:[.,][0-9]+)?)(?![0-9A-Za-z])"
    rf"(?P<after> ?(?:{_CURRENCY}|%))?"
)
_ANY_NUMBER = re.compile(r"[0-9]+(?:[.,'\u2019\u00a0 ][0-9]{3}(?![0-9]))*(?:[.,][0-9]+)?")
_WHOLE = re.compile(r"(?<![0-9.,])[0-9]{1,40}(?![0-9]|[.,][0-9])")
_RUN = re.compile(r"[0-9A-Za-z]+")


def missing(text: str, source: str, quotes: Collection[Quoted]) -> dict[Quoted, int]:
    """How many different amounts, dates and ids `text` quotes that are not in `source`; only the
    kinds of `quotes`, and of those only what is missing.

    Raises: TooLong beyond MAX_TEXT.
    """
    for each in (text, source):
        if len(each) > MAX_TEXT:
            raise TooLong(f"{len(each)} characters are more than {MAX_TEXT}")
    said, known = read(text).text, read(source).text
    found: dict[Quoted, int] = {}
    dated = list(_dated(said))
    if "dates" in quotes:
        _count(found, "dates", _unknown_dates(dated, known))
    said = _blanked(said, [span for span, _ in dated])
    ids = dict(_identified(said))
    if "ids" in quotes:
        _count(found, "ids", _unknown_ids(set(ids.values()), known))
    if "amounts" in quotes:
        said = _TIMES.sub(" ; ", _ORDINALS.sub(" ; ", _blanked(said, ids)))
        _count(found, "amounts", _unknown_amounts(said, known))
    return found


def _count(found: dict[Quoted, int], quote: Quoted, unknown: int) -> None:
    if unknown:
        found[quote] = unknown


def _blanked(text: str, spans: Collection[tuple[int, int]]) -> str:
    pieces = list(text)
    for start, end in spans:
        pieces[start:end] = ";" * (end - start)
    return "".join(pieces)


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


def _unknown_dates(dated: Collection[tuple[tuple[int, int], frozenset[date]]], source: str) -> int:
    known = {day for _, days in _dated(source) for day in days}
    return len({days for _, days in dated if known.isdisjoint(days)})


# --- ids -----------------------------------------------------------------------------------------


def _identified(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Where ids are, and their letters and digits."""
    for found in _IDS.finditer(text):
        normal = _normal(found.group())
        digits = sum(each.isdigit() for each in normal)
        plain = found.group().isdigit()
        if len(normal) >= 5 and digits and not plain and (digits > 1 or len(normal) >= 8):
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


def _unknown_amounts(text: str, source: str) -> int:
    known = {value for each in _ANY_NUMBER.finditer(source) for value in _values(each.group())}
    known |= {Decimal(each) for each in _WHOLE.findall(source)}
    unknown: set[frozenset[Decimal]] = set()
    for found in _NUMBERS.finditer(text):
        written = found.group("number")
        small = written.isdigit() and len(written) < 3 and int(written) < SMALLEST
        if small and not (found.group("before") or found.group("after")):
            continue
        values = frozenset(_values(written))
        if known.isdisjoint(values):
            unknown.add(values)
    return len(unknown)


def _values(written: str) -> Iterator[Decimal]:
    """What a number can mean: "1,234" is one thousand and something, or one and something."""
    if len(written) > 64:
        return
    plain = re.sub("['\u2019\u00a0 ]", "", written)
    readings = {plain.replace(",", ""), plain.replace(".", "").replace(",", ".")}
    for reading in readings:
        if reading.count(".") > 1:
            continue
        try:
            yield Decimal(reading)
        except InvalidOperation:
            continue
