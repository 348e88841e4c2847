"""One real world for the whole session: coordinator, tenant, two agents, real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.mainjob import main_job_world
from exclave_testing.processes import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The main job done once: enrolled, signed 2-of-3, rolled out, both models loaded."""
    with main_job_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh folder for files that a test makes beside the world."""
    return tmp_path
