"""Marks the tests that show an attack on the audit trail, as docs/attacks.md lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "attacks.md"
NAME = re.compile(r"[AWCB][1-9][0-9]?")
"""Agent's database, wire, coordinator's database, bundle; and a number."""

F = TypeVar("F", bound=Callable[..., Any])


def attack(*names: str) -> Callable[[F], F]:
    """The test shows these attacks of docs/attacks.md."""
    wrong = [name for name in names if NAME.fullmatch(name) is None]
    if wrong or not names:
        raise ValueError(f"an attack is named as A1, W1, C1 or B1, not {wrong}")
    return lambda test: test


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    holds: str
    done: str
    verdict: str
    test: str
    """`tests/<file>::<function>`."""


def rows(page: str) -> list[Row]:
    """The lines of the page's table of attacks, in order."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if line.startswith("|") and NAME.fullmatch(cells[0]):
            found.append(Row(*cells))
    return found


def marked(folder: Path = TESTS) -> Iterator[tuple[str, str]]:
    """(attack, test) for everything that is marked; read, not run, so that nothing is skipped."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{path.relative_to(folder.parent)}::{node.name}"
                for name in _names(node):
                    yield name, place


def _names(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for each in test.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "attack":
            yield from (ast.literal_eval(argument) for argument in each.args)
