"""The interface over a scripted decision path, for suites that look at what goes in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from exclave_testing.fake_pipeline import FakePipeline


@pytest.fixture
def script() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
async def http(script: FakePipeline) -> AsyncIterator[httpx.AsyncClient]:
    async with script.client() as client:
        yield client
