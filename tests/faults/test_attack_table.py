"""docs/attacks.md and the tests say the same: no attack without its test, no test unlisted."""

from __future__ import annotations

from collections import Counter

import pytest

from exclave_testing.attacks import PAGE, TESTS, attack, marked, rows

LEAST = 45
CLASSES = "AWCB"


def test_every_row_has_its_test_and_every_test_its_row() -> None:
    table = {(row.name, row.test) for row in rows(PAGE.read_text())}
    tests = set(marked())
    assert table - tests == set(), "in the table, but no such test is marked with it"
    assert tests - table == set(), "marked, but not in the table"


def test_names_are_unique_and_without_gaps() -> None:
    names = [row.name for row in rows(PAGE.read_text())]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert len(names) >= LEAST
    for kind in CLASSES:
        numbers = [int(name[1:]) for name in names if name[0] == kind]
        assert numbers == list(range(1, len(numbers) + 1)), kind


def test_every_row_is_filled() -> None:
    for row in rows(PAGE.read_text()):
        assert all((row.holds, row.done, row.verdict, row.test)), row.name


def test_every_marked_function_is_one_that_pytest_runs() -> None:
    for name, place in marked():
        file, _, function = place.partition("::")
        assert (TESTS.parent / file).is_file() and function.startswith("test_"), name


@pytest.mark.parametrize("names", [(), ("X1",), ("A0",), ("A1", "a2"), ("A",)])
def test_a_mistyped_name_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="an attack is named"):
        attack(*names)
