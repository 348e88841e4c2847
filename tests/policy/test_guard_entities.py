"""Words for a model that finds persons, and what its labels say of the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_policy.guards import entities as guard
from exclave_policy.guards.entities import KIND_OF, MAX_LETTERS, Word, entities, words
from exclave_policy.guards.personal import MAX_TEXT, Finding, TooLong
from exclave_policy.guards.tokens import Tokens
from exclave_policy.kinds.redactions import BY_MODEL, Redaction
from exclave_testing.ner import gazetteer_onnx

NAMES = {"Anna": "B-PER", "Kowalska": "I-PER", "O'Brien": "B-PER", "Lyon": "B-LOC"}


def shown(text: str) -> list[str]:
    return [word.text for word in words(text)]


def test_words_are_cut_where_a_reader_would_cut() -> None:
    assert shown("Anna Kowalska-Nowak, O'Brien (Lyon).") == [
        *("Anna", "Kowalska-Nowak", ",", "O'Brien", "(", "Lyon", ")", "."),
    ]
    assert shown("it's- 'x' a--b") == ["it's", "-", "'", "x", "'", "a", "-", "-", "b"]
    assert shown("Łódź\u00a0東京 हिन्दी") == ["Łódź", "東京", "हिन्दी"]
    assert shown(" \n\u200b\t") == []


def test_what_is_invisible_or_composed_otherwise_hides_no_word() -> None:
    text = "An\u200bna Rene\u0301e"
    assert words(text) == (Word("Anna", 0, 5), Word("Renée", 6, 12))


def test_a_word_without_end_is_cut() -> None:
    found = words("x" * (2 * MAX_LETTERS + 1))
    assert [len(word.text) for word in found] == [MAX_LETTERS, MAX_LETTERS, 1]


def test_too_much_is_refused_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(words("a b " * 1000)) == 2000
    with pytest.raises(TooLong, match="characters"):
        words(" " * (MAX_TEXT + 1))
    monkeypatch.setattr(guard, "MAX_WORDS", 3)
    assert len(words("a b c")) == 3
    with pytest.raises(TooLong, match="words"):
        words("a b c d")


@given(st.text(max_size=200))
def test_every_visible_character_is_in_a_word(text: str) -> None:
    covered = {place for word in words(text) for place in range(word.start, word.end)}
    for place, character in enumerate(text):
        if character.isalnum():
            assert place in covered
    places = [place for word in words(text) for place in (word.start, word.end)]
    assert places == sorted(places)


FIVE = words("a b c d e")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("B-PER I-PER O B-LOC I-LOC", [("person", 0, 3), ("address", 6, 9)]),
        ("B-PER B-PER O O O", [("person", 0, 1), ("person", 2, 3)]),
        ("I-PER I-PER I-LOC O O", [("person", 0, 3), ("address", 4, 5)]),
        ("B-LOC I-ADDRESS O O O", [("address", 0, 3)]),
        ("O I-PER O I-PER O", [("person", 2, 3), ("person", 6, 7)]),
        ("S-PER B-PER E-PER O U-LOC", [("person", 0, 1), ("person", 2, 5), ("address", 8, 9)]),
        ("PER PER O b-per i-per", [("person", 0, 3), ("person", 6, 9)]),
        ("B-ORG I-ORG ? B-MISC O-PER", []),
        ("B-PER I-ORG I-PER O O", [("person", 0, 1), ("person", 4, 5)]),
    ],
)
def test_labels_are_joined(labels: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(FIVE, labels.split()) == tuple(Finding(*each) for each in found)


def test_every_label_finds_a_kind_that_needs_a_model() -> None:
    assert set(KIND_OF.values()) == BY_MODEL


@pytest.mark.parametrize("count", [0, 4, 6])
def test_a_wrong_number_of_labels_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} labels for 5 words"):
        entities(FIVE, ["O"] * count)


def test_a_real_model_finds_and_tokens_stand_in(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(gazetteer_onnx(tmp_path / "ner.onnx", NAMES)))
    text = "Anna Kowalska met Mr O\u2019Brien in Lyon; anna kowalska is Anna\u200b Kowalska."
    cut = words(text)
    given = np.array([word.text.replace("\u2019", "'") for word in cut], dtype=object)
    (labels,) = session.run(None, {"words": given})
    found = entities(cut, list(labels))
    kinds = frozenset({"person", "address"})
    made = Tokens(Redaction("r", "1", "", kinds, entities="ner"), bytes(32))
    assert made.replace(text, found) == (
        "<PERSON_1> met Mr <PERSON_2> in <ADDRESS_1>; anna kowalska is <PERSON_3>."
    )
    assert made.values["<PERSON_1>"] == "Anna Kowalska"
