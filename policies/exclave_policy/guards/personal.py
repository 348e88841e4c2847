"""Finds personal data in text by its shape, its checksum and the words beside it.

Numbers are judged by python-stdnum, schwifty and phonenumbers. What has neither shape nor checksum
(names, places) is found by a model, and handed in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from exclave_policy.guards.national import SHAPES, cued, national_ids
from exclave_policy.guards.reading import blanked, layers, read
from exclave_policy.kinds.redactions import BY_MODEL

MAX_TEXT: Final = 1024 * 1024
"""Most characters of one text."""
PHONE_TRIES: Final = 2000
"""Most candidates for a phone number that one text is searched for, each country."""
BY_SHAPE: Final = ("card", "date_of_birth", "email", "iban", "ip", "national_id", "phone")
"""Kinds that need neither a model nor a pattern of the document."""
COUNTRIES: Final = tuple(sorted(SHAPES))
"""Countries whose national ids are known."""

_PRIORITY: Final = {
    kind: place
    for place, kind in enumerate(
        (
            *("custom", "iban", "email", "national_id", "card", "date_of_birth", "ip", "phone"),
            *("person", "address"),
        )
    )
}
_DIGITS = re.compile(r"(?<![0-9A-Za-z])[0-9]+(?:[ -][0-9]+)*(?![0-9A-Za-z])")
_CARD_DIGITS = 19
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|"
    r"7[01][0-9]|720)[0-9]{12}|3[47][0-9]{13}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}|"
    r"3(?:0[0-5]|[689][0-9])[0-9]{11,16}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}|62[0-9]{14,17}|"
    r"(?:5018|5020|5038|5893|6304|6759|676[1-3])[0-9]{8,15}"
)
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_IPV4 = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{2,39}(?![0-9A-Za-z:])")
_MONTHS = (
    "jan[a-z]*|feb[a-z]*|m[aä]r[a-z]*|mars|mrt|apr[a-z]*|avr[a-z]*|abr[a-z]*|ma[iy][a-z]*|mei|"
    "maggio|jun[a-z]*|juin|giugno|jul[a-z]*|juillet|luglio|aug[a-z]*|ao[uû]t|ago[a-z]*|"
    "sep[a-z]*|set[a-z]*|o[ck]t[a-z]*|ott[a-z]*|nov[a-z]*|de[cz][a-zé]*|d[ée]c[a-z]*|dic[a-z]*|"
    "ene[a-z]*|gen[a-z]*|f[ée]v[a-z]*"
)
_DATE = re.compile(
    rf"(?<![0-9A-Za-z])(?:[0-9]{{4}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,2}}|"
    rf"[0-9]{{1,2}}[-/.] ?[0-9]{{1,2}}[-/.] ?[0-9]{{2,4}}|"
    rf"[0-9]{{1,2}}(?:\.|st|nd|rd|th|er)? (?:de )?(?:{_MONTHS})\.? (?:de )?,? ?[0-9]{{4}}|"
    rf"(?:{_MONTHS})\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}})(?![0-9A-Za-z])"
)
_BIRTH = (
    *("born", "birth", "dob", "d.o.b", "geboren", "geburts", "geb.", "geb ", "né le", "née le"),
    *("né(e) le", "naissance", "nacid", "nacimiento", "nato il", "nata il", "nascita", "geboorte"),
)
_LIKE_A_PHONE = re.compile(r"\+|00[1-9]|\([0-9]{2,5}\)")
_PHONE = (
    *("tel", "phone", "call", "mobile", "cell", "fax", "handy", "mobil", "ruf", "anruf", "appel"),
    *("numéro", "móvil", "llam", "cellulare", "chiam", "bel ", "bel:", "whatsapp", "sms"),
)
_NOT_ADDRESSES = ("version", "release", "firmware", "v", "build", "section", "clause")


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of personal data in a text."""

    kind: str
    """Of `redactions.KINDS`."""
    start: int
    """Of its first character."""
    end: int
    """Of the character after its last."""


class TooLong(ValueError):
    """A text that is not searched: whoever asked must not take it for free of anything."""


def find(
    text: str,
    kinds: Collection[str],
    countries: Sequence[str] = (),
    patterns: Sequence[str] = (),
    entities: Sequence[Finding] = (),
) -> tuple[Finding, ...]:
    """What of `kinds` is in `text`, in order, none over another: where two overlap, the more
    specific kind wins, then the longer. `entities`: what a model found; those of other kinds are
    left out. `patterns`: RE2, what `custom` is.

    Raises: TooLong beyond MAX_TEXT.
    """
    if len(text) > MAX_TEXT:
        raise TooLong(f"{len(text)} characters are more than {MAX_TEXT}")
    seen = list(layers(text))
    found = [
        Finding(each.kind, *layer.span(each.start, each.end))
        for layer in seen
        for each in _within(layer.text, frozenset(kinds), countries, patterns)
    ]
    if len(seen) > 1:
        found = _merged(found, [span for layer in seen for span in layer.escapes])
    found += [each for each in entities if each.kind in kinds]
    return _apart(found, text)


def _within(
    text: str, kinds: frozenset[str], countries: Sequence[str], patterns: Sequence[str]
) -> Iterator[Finding]:
    reading = read(text)
    spans = list(_spans(reading.text, kinds, countries, patterns))
    if "phone" in kinds:
        # Of two numbers beside each other the matcher sees one, and that is none.
        alone = blanked(reading.text, ((start, end) for _, start, end in spans))
        spans += [("phone", start, end) for start, end in _phones(alone, countries)]
    for kind, start, end in spans:
        yield Finding(kind, *reading.span(start, end))


def _merged(found: Iterable[Finding], escapes: Iterable[tuple[int, int]]) -> list[Finding]:
    """What is seen of one thing with and without its escapes, as one; no escape is cut in two."""
    starts = {place: start for start, end in escapes for place in range(start, end)}
    ends = {place: end for start, end in escapes for place in range(start, end)}
    whole = [
        Finding(
            each.kind,
            starts.get(each.start, each.start),
            ends.get(each.end - 1, each.end),
        )
        for each in found
    ]
    merged: list[Finding] = []
    for each in sorted(whole, key=lambda f: (f.kind, f.start, f.end)):
        last = merged[-1] if merged else None
        if last is not None and last.kind == each.kind and each.start < last.end:
            merged[-1] = Finding(last.kind, last.start, max(last.end, each.end))
        else:
            merged.append(each)
    return merged


def kinds_in(text: str, countries: Sequence[str] = COUNTRIES) -> tuple[str, ...]:
    """The kinds of `BY_SHAPE` that are in `text`, sorted. Raises: TooLong."""
    return tuple(sorted({each.kind for each in find(text, BY_SHAPE, countries)}))


def _spans(
    text: str, kinds: frozenset[str], countries: Sequence[str], patterns: Sequence[str]
) -> Iterator[tuple[str, int, int]]:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters grow: then cues are looked for as they stand
        lower = text
    searches: dict[str, Iterable[tuple[int, int]]] = {
        "card": _cards(text),
        "iban": _ibans(text),
        "email": (each.span() for each in _EMAIL.finditer(text)),
        "ip": _addresses(text, lower),
        "date_of_birth": _births(text, lower),
        "national_id": (
            span for country in countries for span in national_ids(text, lower, country)
        ),
        "custom": (span for source in patterns for span in _custom(text, source)),
    }
    for kind in searches.keys() & kinds:
        for start, end in searches[kind]:
            yield kind, start, end


def _apart(found: Iterable[Finding], text: str) -> tuple[Finding, ...]:
    ranked = sorted(found, key=lambda f: (_PRIORITY[f.kind], f.start - f.end, f.start))
    taken: list[Finding] = []
    covered: set[int] = set()
    for each in ranked:
        span = range(each.start, each.end)
        parts: Iterable[Finding] = (each,)
        if not covered.isdisjoint(span):
            parts = tuple(_rest(each, covered, text)) if each.kind in BY_MODEL else ()
        for part in parts:
            if part.start < part.end:
                covered.update(range(part.start, part.end))
                taken.append(part)
    return tuple(sorted(taken, key=lambda f: f.start))


def _rest(finding: Finding, covered: Collection[int], text: str) -> Iterator[Finding]:
    """What of a model's finding nothing more specific covers: it must not leave with the rest."""
    start: int | None = None
    for place in range(finding.start, finding.end + 1):
        free = place < finding.end and place not in covered
        if free and start is None and text[place].isalnum():
            start = place
        if start is not None and not free:
            yield Finding(finding.kind, start, start + len(text[start:place].rstrip()))
            start = None


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for found in _DIGITS.finditer(text):
        groups = [each.span() for each in re.finditer("[0-9]+", found.group())]
        first = 0
        while first < len(groups):
            last = _card(found.group(), groups, first)
            if last is not None and first == 0 and text[found.start() - 1 : found.start()] == "+":
                last = None  # a phone number with its country
            if last is not None:
                yield found.start() + groups[first][0], found.start() + groups[last][1]
            first = first + 1 if last is None else last + 1


def _card(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """The last of the groups of digits that are a card's number with the one at `first`: another
    number may stand on either side of it."""
    from stdnum import luhn

    digits = ""
    if text[groups[first][0]] not in "23456":
        return None  # no issuer's number begins so
    for place in range(first, len(groups)):
        start, end = groups[place]
        if len(digits) + end - start > _CARD_DIGITS:
            return None
        digits += text[start:end]
        if len(digits) < 12:
            continue
        if _ISSUERS.fullmatch(digits) and luhn.is_valid(digits):
            return place
    return None


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    place = 0
    while (found := _IBAN.search(text, place)) is not None:
        place = found.start() + 2
        length = _iban_length(found.group()[:2].upper())
        end = _after(text, found.start(), length)
        if end is None or (end < len(text) and text[end].isalnum()):
            continue
        if _is_iban(text[found.start() : end]):
            yield found.start(), end
            place = end


def _after(text: str, start: int, length: int) -> int | None:
    """Behind the `length`-th letter or digit from `start`; None: there are not as many."""
    if not length:
        return None
    seen = 0
    for place in range(start, min(len(text), start + 2 * length)):
        if text[place].isalnum():
            seen += 1
            if seen == length:
                return place + 1
        elif text[place] not in " -":
            return None
    return None


@cache
def _iban_length(country: str) -> int:
    from schwifty import registry
    from schwifty.exceptions import SchwiftyException

    try:
        return registry.get_iban_spec(country).iban_length
    except (SchwiftyException, KeyError):
        return 0  # no country that has IBANs


def _is_iban(text: str) -> bool:
    from schwifty import IBAN
    from schwifty.exceptions import SchwiftyException

    try:
        IBAN(re.sub("[ -]", "", text))
    except SchwiftyException:
        return False
    return True


def _addresses(text: str, lower: str) -> Iterator[tuple[int, int]]:
    for found in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        word = lower[max(0, found.start() - 12) : found.start()].split()
        if word and word[-1].rstrip(":.") in _NOT_ADDRESSES:
            continue
        try:
            address = ipaddress.ip_address(found.group())
        except ValueError:
            continue
        if not (address.is_unspecified or address.is_loopback):
            yield found.span()


def _births(text: str, lower: str) -> Iterator[tuple[int, int]]:
    for found in _DATE.finditer(lower):
        if cued(lower, found.start(), _BIRTH, next_to=True):
            yield found.span()


def _phones(text: str, countries: Sequence[str]) -> Iterator[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    lower = text.lower() if len(text.lower()) == len(text) else text
    for region in (None, *countries):
        matcher = PhoneNumberMatcher(text, region, Leniency.VALID, PHONE_TRIES)
        for match in matcher:
            # Without the country in front, every number of that length is one of some country.
            if (
                region is None
                or _LIKE_A_PHONE.match(match.raw_string)
                or cued(lower, match.start, _PHONE, next_to=True)
            ):
                yield match.start, match.end


def _custom(text: str, source: str) -> Iterator[tuple[int, int]]:
    for found in _compiled(source).finditer(text):
        if found.end() > found.start():
            yield found.start(), found.end()


@cache
def _compiled(source: str) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = 8 << 20
    options.log_errors = False
    return re2.compile(source, options)
