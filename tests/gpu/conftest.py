"""What the tests on a GPU need, and the reason that is printed where it is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.gpu import no_cuda_llama, no_cuda_onnx


@pytest.fixture
def cuda_llama() -> None:
    """Skips where llama.cpp has no GPU."""
    if reason := no_cuda_llama():
        pytest.skip(reason)


@pytest.fixture
def cuda_onnx() -> None:
    """Skips where onnxruntime has no GPU."""
    if reason := no_cuda_onnx():
        pytest.skip(reason)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as running:
        yield running
