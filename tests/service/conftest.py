"""Booted systems for the tests of packages and services; tests skip where none can be, with why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from exclave_testing.installed import PACKAGES
from exclave_testing.processes import ROOT
from exclave_testing.sandbox import Boot, Sandbox, Unavailable, debian_tree, why_not
from packages import tools

HERE = Path(__file__).parent
# The first test waits for a tree, or for our packages, to be built.
FIRST_BUILD_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests the time that building a tree takes."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FIRST_BUILD_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journals of the sandboxes that a failed test used."""
    report = yield
    if report.when == "call" and report.failed and HERE in item.path.parents:
        used = getattr(item, "funcargs", {}).values()
        boxes = {box.name: box for box in used if isinstance(box, Sandbox)}
        boxes |= {box.name: box for box in getattr(item, "booted", [])}
        for name, box in boxes.items():
            if box.running:
                report.sections.append((f"journal of sandbox {name}", box.journal()))
    return report


def _tree(suite: str) -> Path:
    reason = why_not()
    if reason is None:
        try:
            return debian_tree(suite)
        except Unavailable as error:
            reason = str(error)
    pytest.skip(f"no sandbox here: {reason}")


@pytest.fixture(scope="session")
def bookworm() -> Path:
    """A Debian 12 tree; another suite's where EXCLAVE_TEST_SUITE names one (weekly: trixie)."""
    return _tree(os.environ.get("EXCLAVE_TEST_SUITE", "bookworm"))


@pytest.fixture(scope="session")
def trixie() -> Path:
    """A Debian 13 tree."""
    return _tree("trixie")


@pytest.fixture(scope="module")
def box(bookworm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One booted Debian 12 for all tests of a module that leave it as they find it."""
    with Sandbox(bookworm, "box", tmp_path_factory.mktemp("box")) as booted:
        yield booted


@pytest.fixture
def boot(bookworm: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Boot as many as the test wants: `boot(name, tree=..., binds=...)`; all end with the test."""
    with ExitStack() as stack:
        request.node.booted = []

        def boot_one(name: str, *, tree: Path = bookworm, **options: Any) -> Sandbox:
            one = stack.enter_context(Sandbox(tree, name, tmp_path, **options))
            request.node.booted.append(one)
            return one

        yield boot_one


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with our packages, built now unless they are there and current."""
    if reason := tools.unsuitable():
        pytest.skip(f"no packages here: {reason}")
    command = [sys.executable, str(ROOT / "packaging" / "packages" / "build.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FIRST_BUILD_SECONDS)
    if done.returncode != 0:
        pytest.fail(f"packages do not build: {done.stderr[-2000:]}")
    return PACKAGES
