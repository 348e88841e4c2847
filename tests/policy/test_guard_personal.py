"""Personal data: found by shape, checksum and the words beside it, and nothing else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.guards.personal import (
    BY_SHAPE,
    COUNTRIES,
    MAX_TEXT,
    Finding,
    TooLong,
    find,
    kinds_in,
)

WIDE = {ord(str(digit)): 0xFF10 + digit for digit in range(10)}
ARABIC = {ord(str(digit)): 0x0660 + digit for digit in range(10)}
ALL = (*BY_SHAPE, "custom", "person")


def found(text: str, *countries: str) -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in find(text, BY_SHAPE, countries or COUNTRIES)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("paid with 4111 1111 1111 1111.", "card", "4111 1111 1111 1111"),
        ("4111-1111-1111-1111", "card", "4111-1111-1111-1111"),
        ("no. 12 4111 1111 1111 1111 17", "card", "4111 1111 1111 1111"),
        ("amex 378282246310005", "card", "378282246310005"),
        ("IBAN DE89 3704 0044 0532 0130 00 AND MORE", "iban", "DE89 3704 0044 0532 0130 00"),
        ("gb82west12345698765432", "iban", "gb82west12345698765432"),
        ("to NL91ABNA0417164300,", "iban", "NL91ABNA0417164300"),
        ("mail anna.b+x@ex-ample.co.uk!", "email", "anna.b+x@ex-ample.co.uk"),
        ("call +49 30 901820 now", "phone", "+49 30 901820"),
        ("call (030) 901820 now", "phone", "(030) 901820"),
        ("call +49 151 42943880", "phone", "+49 151 42943880"),
        ("Tel. 030 901820", "phone", "030 901820"),
        ("born 12.03.1980 in Rome", "date_of_birth", "12.03.1980"),
        ("Geburtsdatum: 3. März 1975", "date_of_birth", "3. März 1975"),
        ("née le 14 juillet 1989", "date_of_birth", "14 juillet 1989"),
        ("DOB: March 4, 1990", "date_of_birth", "March 4, 1990"),
        ("host 10.1.2.3", "ip", "10.1.2.3"),
        ("at 2001:db8::1 today", "ip", "2001:db8::1"),
        ("SSN 536-22-1234", "national_id", "536-22-1234"),
        ("BSN 111222333", "national_id", "111222333"),
        ("NIR 2 55 08 14 168 025 38", "national_id", "2 55 08 14 168 025 38"),
        ("NINO AB 12 34 56 C", "national_id", "AB 12 34 56 C"),
        ("DNI 12345678Z", "national_id", "12345678Z"),
        ("CPF 390.533.447-05", "national_id", "390.533.447-05"),
        ("AHV 756.9217.0769.85", "national_id", "756.9217.0769.85"),
        ("PESEL 44051401359", "national_id", "44051401359"),
    ],
)
def test_what_is_found(text: str, kind: str, value: str) -> None:
    assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the checksum is wrong
        "9111 1111 1111 1111",  # no issuer
        "order 41111111111111111111111",
        "DE89 3704 0044 0532 0130 01",
        "ZZ89370400440532013000",
        "due 12.03.2026",
        "ticket 222834598",
        "invoice 2053-249975",
        "born in Rome, paid on invoice 7, 12.03.1980",
        "version 1.2.3.4",
        "v10.0.0.1",
        "12:30:45",
        "127.0.0.1 and 0.0.0.0",
        "111222333",  # no word beside it
        "12345678A",  # the letter is wrong
        "user@localhost",
        "@",
        "a@b",
        "",
    ],
)
def test_what_is_not_found(text: str) -> None:
    assert found(text, "NL", "ES", "DE") == []


def test_national_ids_are_those_of_the_countries_asked_for() -> None:
    assert found("SSN 536-22-1234", "NL") == []
    assert found("SSN 536-22-1234", "US") == [("national_id", "536-22-1234")]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111".translate(WIDE),
        "4111\u200b1111\u00a01111\u202f1111",
        "4111\u20111111\u20111111\u20111111",
        "4111 1111 1111 1111".translate(ARABIC),
    ],
)
def test_odd_characters_hide_nothing(text: str) -> None:
    assert found(f"é {text} é") == [("card", text)]


def test_where_two_overlap_the_more_specific_one_stays() -> None:
    assert found("IBAN DE89370400440532013000") == [("iban", "DE89370400440532013000")]
    text = "CUST-4111111111111111"
    both = find(text, ALL, (), ("CUST-[0-9]{16}",))
    assert both == (Finding("custom", 0, len(text)),)


def test_what_a_model_found_is_taken_where_it_is_asked_for() -> None:
    person = Finding("person", 0, 4)
    assert find("Anna ", ALL, entities=[person]) == (person,)
    assert find("Anna ", BY_SHAPE, entities=[person]) == ()


def test_the_kinds_of_a_text() -> None:
    assert kinds_in("4111 1111 1111 1111, a@b.example") == ("card", "email")


def test_a_text_that_is_too_long_is_not_taken_for_clean() -> None:
    with pytest.raises(TooLong):
        find("x" * (MAX_TEXT + 1), BY_SHAPE)


@pytest.mark.parametrize(
    "piece", ["1", "@", "+", " ", "a", "1 ", "1.", ":", "DE12", "a@", "1-", "ab12 ", "born 1"]
)
def test_hostile_text_takes_its_time_and_no_more(piece: str) -> None:
    text = piece * (256 * 1024 // len(piece))
    started = time.perf_counter()
    find(text, ALL, ("DE", "US"), ("(a+)+$",))
    assert time.perf_counter() - started < 5


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_findings_lie_in_the_text_and_apart(text: str) -> None:
    place = 0
    for each in find(text, ALL, COUNTRIES, ("[a-z]{3}",)):
        assert place <= each.start < each.end <= len(text)
        place = each.end
