"""The coordinator's tests share one fixture: a real server with real certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_testing.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    """A coordinator of example.org, just made."""
    async with running_coordinator(tmp_path / "home") as running:
        yield running
