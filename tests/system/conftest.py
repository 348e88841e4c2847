"""One service for all client suites: a real agent with both real models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exclave_testing.clients import Service, loopback_only
from exclave_testing.processes import World


@pytest.fixture
def service(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The southern agent; the clients reach nothing else."""
    agent = world.agents["south"]
    with loopback_only(monkeypatch):
        yield Service(agent, agent.url, agent.key)
