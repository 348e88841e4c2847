"""Fixtures of the upgrade room."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exclave_testing.upgrade_files import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A machine with version 0.1.0 installed, and 0.1.0 and 0.2.0 signed."""
    with ThreadPoolExecutor(1) as executor:
        made = Site(tmp_path / "site", executor)
        made.sign("0.1.0", "0.2.0")
        yield made
