"""Grounding: what an answer quotes, against what was asked."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exclave_policy.guards.grounding import MAX_GROUNDED, missing
from exclave_policy.guards.personal import TooLong
from exclave_policy.kinds.validators import QUOTED


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("You get 1.234,56 EUR", "total: 1,234.56"),
        ("You get 1 234,56 €", "1234.56"),
        ("CHF 1'234.56", "1234,56"),
        ("1,234 pieces", "1234 pieces"),
        ("within 14 days", "14 days to return"),
        ("12 %", "12 percent"),
        ("by 31 December 2026", "due 2026-12-31"),
        ("am 31. Dezember 2026", "12/31/2026"),
        ("le 3 mars 2026, el 3 de marzo de 2026, 3 marzo 2026, 3 maart 2026", "03.03.2026"),
        ("December 31st, 2026", "31/12/26"),
        ("on 3/4/2026", "2026-04-03"),
        ("order ORD-12345", "order ord 12345"),
        ("DE89 3704 0044 0532 0130 00", "IBAN DE89370400440532013000"),
        ("card 4111-1111-1111-1111", "4111111111111111"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "123E4567E89B12D3A456426614174000"),
        ("3 items, 2nd of 5, at 14:30", "nothing"),
        ("the 21st", "nothing"),
        ("no numbers at all", ""),
        ("on 2026-12-31T10:30:00Z", "31.12.2026"),
        ("100EUR, EUR100, 5.99EUR", "100 EUR and 5,99 EUR"),
        ("100-200 days", "100-200 days"),
        ("100 200", "100, then 200"),
        (" ".join(["123"] * 30), " ".join(["123"] * 30)),
        (".50 EUR", "0.50"),
        ("250kg", "250 kg"),
        ("1,234,567.89", "1.234.567,89"),
    ],
)
def test_another_writing_of_the_same_is_the_same(text: str, source: str) -> None:
    assert missing(text, source, QUOTED) == {}


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("You get €1,234.57", "total 1,234.56", {"amounts": 1}),
        ("within 15 days", "14 days", {"amounts": 1}),
        ("5 %", "nothing", {"amounts": 1}),
        ("99 EUR", "1.99", {"amounts": 1}),
        ("20 and 30 and 20", "nothing", {"amounts": 2}),
        ("1.5", "15", {"amounts": 1}),
        ("15", "1.5", {"amounts": 1}),
        ("€1k and 10km", "nothing", {"amounts": 2}),
        (".50 EUR", "50", {"amounts": 1}),
        ("12345 EUR", "ORD-12345", {"amounts": 1}),
        ("2026 EUR", "2026-01-02", {"amounts": 1}),
        ("ORDER1", "ORDER2", {"ids": 1}),
        ("order ORD-1234", "ORD-12345", {"ids": 1}),
        ("order ORD-12346", "ORD-12345", {"ids": 1}),
        ("order 2345-ORD", "ORD-12345", {"ids": 1}),
        ("by 30 December 2026", "due 2026-12-31", {"dates": 1}),
        ("by 5/13/2026", "5.12.2026", {"dates": 1}),
        ("A-1234 for 50.00 on 2026-01-02", "", {"amounts": 1, "dates": 1, "ids": 1}),
    ],
)
def test_what_was_not_asked_is_missing(text: str, source: str, expected: dict[str, int]) -> None:
    assert missing(text, source, QUOTED) == expected
    for quote in QUOTED:
        alone = missing(text, source, [quote])
        assert alone == {each: count for each, count in expected.items() if each == quote}


AMOUNT = st.decimals(Decimal("10"), Decimal("999999"), places=2)


@given(AMOUNT)
def test_a_quoted_amount_is_never_missing(amount: Decimal) -> None:
    for written in (f"{amount:,}", str(amount), f"{amount:,}".translate(str.maketrans(",.", ".,"))):
        assert missing(f"You get {written} EUR.", f"total {amount}", QUOTED) == {}


@given(AMOUNT, AMOUNT)
def test_another_amount_is_missing(amount: Decimal, other: Decimal) -> None:
    assume(amount != other)
    assert missing(f"You get {amount} EUR.", f"total {other} EUR", QUOTED) == {"amounts": 1}


@given(st.text(max_size=200))
def test_what_quotes_its_source_word_for_word_is_grounded(text: str) -> None:
    assert missing(text, text, QUOTED) == {}


@given(st.text(alphabet="0123456789.,-/ ABjan", max_size=120))
def test_numbers_and_marks_in_any_order_are_grounded_in_themselves(text: str) -> None:
    assert missing(text, text, QUOTED) == {}


def test_a_long_text_is_refused() -> None:
    for pair in (("x" * (MAX_GROUNDED + 1), ""), ("", "x" * (MAX_GROUNDED + 1))):
        with pytest.raises(TooLong):
            missing(*pair, QUOTED)
