"""YAML: what is refused, where, and that hostile text costs little."""

from __future__ import annotations

import pytest

from exclave_policy.source import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_PROBLEMS,
    MAX_TEXT,
    Report,
    Scalar,
    kind_of_plain,
    parse,
    plain,
    read_text,
)


def faults(raw: bytes | str) -> list[tuple[int, int, str]]:
    """(line, column, message) of every fault."""
    report = Report("f.yaml")
    text = read_text(raw if isinstance(raw, bytes) else raw.encode(), report)
    if text is not None:
        parse(text, report)
    return [(p.line, p.column, p.message) for p in report.all()]


def test_nodes_know_their_place() -> None:
    report = Report("f.yaml")
    root = parse("a: 1\nb:\n  - 'x'\n  - {c: true}\n", report)
    assert report.problems == []
    assert root is not None
    assert plain(root) == {"a": 1, "b": ["x", {"c": True}]}
    leaf = root.fields["b"][1].items[0]  # type: ignore[union-attr] # the shape is asserted above
    assert isinstance(leaf, Scalar)
    assert (leaf.line, leaf.column, leaf.style) == (3, 5, "'")


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\na: 2\n", 2, 1, "field 'a' is given twice (first in line 1)"),
        ("a: &x 1\n", 1, 4, "an anchor (&)"),
        ("a: &x [1]\n", 1, 4, "an anchor (&)"),
        ("a: *x\n", 1, 4, "an alias (*)"),
        ("a: !!python/object:os.system x\n", 1, 4, "a tag (!)"),
        ("a: !local [1]\n", 1, 4, "a tag (!)"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document"),
        ("? [a]\n: 1\n", 1, 3, "a field's name must be a word"),
        ("a: [1\n", 2, 1, "not YAML: did not find expected ',' or ']'"),
        ("a: \u202e b\n", 1, 4, "hidden character U+202E"),
        ("a: 1\nb\u200b: 2\n", 2, 2, "hidden character U+200B"),
        ("\ufeffa: 1\n", 1, 1, "hidden character U+FEFF"),
        ("a: \x07\n", 1, 4, "hidden character U+0007"),
        ("", 0, 0, "the document is empty"),
        ("# only a comment\n", 0, 0, "the document is empty"),
    ],
)
def test_refused(text: str, line: int, column: int, message: str) -> None:
    assert (line, column, message) in faults(text)


def test_every_fault_of_a_document_is_listed() -> None:
    found = faults("a: &x 1\nb: *x\nb: !t 2\n")
    assert [line for line, _, _ in found] == [1, 2, 3, 3]


def test_a_flood_of_faults_is_counted_not_kept() -> None:
    found = faults("a: 1\n" * 5000)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1][2] == f"{4999 - MAX_PROBLEMS} more problems are not listed"


def test_windows_line_ends_are_read_and_others_are_hidden_characters() -> None:
    assert faults(b"a: 1\r\nb: 2\r\n") == []
    assert faults(b"a: 1\rb: 2\r") == [(1, 5, "hidden character U+000D")]


def test_bytes_that_are_no_text() -> None:
    assert faults(b"a: \xff") == [(0, 0, "byte 3 is not UTF-8")]
    assert faults(b"a: \xed\xa0\x80") == [(0, 0, "byte 3 is not UTF-8")]
    assert faults("a: \0") == [(1, 4, "hidden character U+0000")]
    assert faults('a: "\\ud800"')[0][2].startswith("not YAML")


def test_ten_megabytes_are_refused_unread() -> None:
    found = faults(b"x" * 10_000_000)
    assert found == [(0, 0, "10000000 bytes are too many")]


@pytest.mark.parametrize("brick", ["[", "{", "- ", "? ", "{a: "])
def test_a_thousand_levels_stop_at_the_limit(brick: str) -> None:
    # libyaml alone would spend 26 s on 100,000 levels: reading stops where the limit is.
    found = faults(brick * (MAX_TEXT // len(brick) // 4))
    assert [message for _, _, message in found][-1] == f"nested deeper than {MAX_DEPTH} levels"


def test_the_deepest_document_is_read() -> None:
    assert faults("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []
    assert faults("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) != []


def test_too_many_values_are_refused() -> None:
    found = faults("- a\n" * (MAX_NODES + 1))
    assert [message for _, _, message in found] == [f"more than {MAX_NODES} values"]


def test_a_billion_laughs_needs_aliases_and_gets_none() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    found = faults(bomb)
    assert sum(message == "an alias (*)" for _, _, message in found) == 16


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("12", "int"),
        ("-3", "int"),
        ("007", "ambiguous"),
        ("0x1F", "ambiguous"),
        ("12:30", "ambiguous"),
        ("yes", "ambiguous"),
        ("Off", "ambiguous"),
        ("TRUE", "ambiguous"),
        ("true", "bool"),
        ("1.0", "float"),
        ("1e3", "float"),
        (".nan", "float"),
        ("-.inf", "float"),
        ("1_000", "float"),
        ("~", "null"),
        ("", "null"),
        ("0.1.0", "string"),
        ("analyst", "string"),
        ("\u0661", "string"),
    ],
)
def test_plain_words(word: str, kind: str) -> None:
    assert kind_of_plain(word) == kind
