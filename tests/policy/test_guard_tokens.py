"""Tokens: a value has one token, an answer gets its values back, and nobody gets another's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.guards.personal import MAX_TEXT, Finding, TooLong
from exclave_policy.guards.tokens import Restorer, Tokens
from exclave_policy.kinds.redactions import Redaction

KEY = bytes(range(32))
NUMBERED = Redaction(
    name="r",
    version="1",
    description="",
    kinds=frozenset({"card", "email", "iban", "phone", "person"}),
    countries=("DE",),
)
KEYED = replace(NUMBERED, tokens="keyed")
CARD, OTHER = "4111 1111 1111 1111", "5555 5555 5555 4444"


def tokens(redaction: Redaction = NUMBERED, *texts: str, key: bytes = KEY) -> Tokens:
    made = Tokens(redaction, key)
    made.reserve(texts)
    return made


def test_the_same_value_has_the_same_token_in_all_texts() -> None:
    made = tokens()
    assert made.replace(f"{CARD} or {OTHER}") == "<CARD_1> or <CARD_2>"
    assert made.replace("4111-1111-1111-1111 of A@B.example") == "<CARD_1> of <EMAIL_1>"
    assert made.replace("a@b.EXAMPLE") == "<EMAIL_1>"
    assert dict(made.counts) == {"card": 2, "email": 1}
    assert made.values["<CARD_1>"] == CARD


def test_keyed_tokens_are_the_same_wherever_the_key_is() -> None:
    first, again = tokens(KEYED).replace(CARD), tokens(KEYED).replace(f"x {CARD}")
    assert again == f"x {first}"
    assert tokens(KEYED, key=bytes(32)).replace(CARD) != first
    assert len(first) == len("<CARD_>") + 12


def test_what_a_model_found_is_replaced_too() -> None:
    made = tokens()
    assert made.replace("Anna asks", [Finding("person", 0, 4)]) == "<PERSON_1> asks"
    assert made.restorer().feed("Dear <PERSON_1>, ") == "Dear Anna, "


def test_a_token_that_the_caller_wrote_is_nobodys() -> None:
    text = f"<CARD_1> is not {CARD}"
    made = tokens(NUMBERED, text)
    assert made.replace(text) == "<CARD_1> is not <CARD_2>"
    restorer = made.restorer()
    assert restorer.feed("<CARD_1> <CARD_2>") + restorer.flush() == f"<CARD_1> {CARD}"
    keyed = tokens(KEYED).replace(CARD)
    forged = tokens(KEYED, f"{keyed} {CARD}")
    assert forged.replace(CARD) == "<CARD_1>"


def test_unknown_tokens_stay_as_they_are() -> None:
    restorer = tokens().restorer()
    assert restorer.feed("<CARD_9> <b> <") + restorer.flush() == "<CARD_9> <b> <"


def test_a_text_that_is_too_long_is_not_let_through() -> None:
    with pytest.raises(TooLong):
        tokens().replace("x" * (MAX_TEXT + 1))


PIECES = st.sampled_from(
    [CARD, OTHER, "a@b.example", "DE89370400440532013000", "+49 30 901820", "word", "<", ">", "_"]
)
TEXTS = st.lists(PIECES, max_size=8).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from([NUMBERED, KEYED]))
def test_what_is_replaced_comes_back(text: str, redaction: Redaction) -> None:
    made = tokens(redaction, text)
    sent = made.replace(text)
    for value in made.values.values():
        assert value not in sent
    assert made.replace(sent) == sent
    restorer = made.restorer()
    assert restorer.feed(sent) + restorer.flush() == text


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 200), max_size=12))
def test_however_it_is_cut_an_answer_is_the_same(text: str, cuts: list[int]) -> None:
    made = tokens(NUMBERED, text)
    sent = made.replace(text)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    restorer = made.restorer()
    out = [restorer.feed(sent[a:b]) for a, b in pairwise(places)]
    assert "".join(out) + restorer.flush() == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<>_CARD1 a", max_size=40))
def test_little_is_held_back(text: str) -> None:
    restorer = tokens().restorer()
    told = ""
    for character in text:
        told += restorer.feed(character)
    assert len(text) - len(told) <= 32
    assert told + restorer.flush() == text


# --- answers that are JSON -----------------------------------------------------------------------

VALUES = {"<CARD_1>": CARD, "<CUSTOM_2>": 'say "hi"\n\\', "<PERSON_0123456789ab>": "Zoë"}


OTHERS = ["\\u003c", "\\\\", "\\n", "a<"]


def escaped(token: str) -> str:
    return token.replace("<", "\\u003c").replace(">", "\\u003E")


def nested(text: str, depth: int) -> str:
    for _ in range(depth):
        text = json.dumps({"t": text})
    return text


def unnested(text: str, depth: int) -> str:
    for _ in range(depth):
        text = json.loads(text)["t"]
    return text


def given_back(text: str, cuts: Sequence[int] = ()) -> str:
    restorer = Restorer(VALUES, in_json=True)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return "".join(restorer.feed(text[a:b]) for a, b in pairwise(places)) + restorer.flush()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("token", VALUES)
def test_a_token_whose_brackets_are_escaped_gets_its_value(token: str, depth: int) -> None:
    inner = f'{{"t": "see {escaped(token)}, and {escaped(token)}"}}'
    text = nested(inner, depth - 1)
    meant = f"see {VALUES[token]}, and {VALUES[token]}"
    assert unnested(given_back(text), depth) == meant


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*VALUES, *map(escaped, VALUES), "<CARD_9>", "\\u003c", "\\\\", "\\n", "a<"]
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_json_stays_json_however_it_is_cut(words: list[str], cuts: list[int]) -> None:
    text = '{"t": "' + " ".join(words) + '"}'
    plain = json.loads(text)["t"]
    for token, value in VALUES.items():
        plain = plain.replace(token, value)
    assert json.loads(given_back(text, cuts))["t"] == plain
    assert given_back(text, cuts) == given_back(text)


def test_backslashes_that_are_no_escape_stay() -> None:
    for text in (r"\\\u003cCARD_1\u003e", "\\" * 9 + "u003cCARD_1>", "\\" * 200):
        assert given_back(text, range(0, 250, 7)) == text.replace(r"\u003cCARD_1\u003e", CARD)


def test_a_value_that_was_written_in_escapes_is_the_same_and_comes_back_plain() -> None:
    made = tokens(NUMBERED)
    sent = made.replace('{"a": "a@b.example", "b": "a\\u0040b.example"}')
    assert sent == '{"a": "<EMAIL_1>", "b": "<EMAIL_1>"}'
    again = tokens(NUMBERED)
    again.replace('{"b": "\\u0061\\u0040b.example"}')
    assert dict(again.values) == {"<EMAIL_1>": "a@b.example"}
    halves = Tokens(replace(NUMBERED, kinds=frozenset({"custom"}), patterns=("x.*x",)), KEY)
    halves.replace("x\\ud83d\\ude00\\ud83dx")
    assert dict(halves.values) == {"<CUSTOM_1>": "x\U0001f600\ufffdx"}


def test_an_escaped_token_that_the_caller_wrote_is_nobodys() -> None:
    text = f'{{"t": "\\u003cCARD_1\\u003e is not {CARD}"}}'
    made = tokens(NUMBERED, text)
    assert "<CARD_2>" in made.replace(text)
