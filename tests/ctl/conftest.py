"""Fixtures of the operators' tool: a coordinator in this process, and its first profile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import FakeCoordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[FakeCoordinator]:
    """A fresh fake coordinator."""
    fake = FakeCoordinator(tmp_path)
    yield fake
    fake.stop()


@pytest.fixture
def ctl(coordinator: FakeCoordinator, tmp_path: Path) -> Ctl:
    """`exclave` as an administrator."""
    return Ctl(coordinator.profile(), tmp_path)
