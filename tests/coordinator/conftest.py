"""The coordinator's tests share a real server with real certificates, and one whose witness
answers over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_testing.coordinator import RunningCoordinator, running_coordinator
from exclave_testing.witness_http import Asked, asking
from exclave_testing.witnesses import OutsideTree


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    """A coordinator of example.org, just made."""
    async with running_coordinator(tmp_path / "home") as running:
        yield running


@pytest.fixture
def outside() -> OutsideTree:
    """A log that the witness is told of."""
    return OutsideTree(size=20)


@pytest.fixture
async def asked(tmp_path: Path, outside: OutsideTree) -> AsyncIterator[Asked]:
    """A coordinator, just made, whose witness knows that log."""
    async with asking(tmp_path / "home", outside) as up:
        yield up
