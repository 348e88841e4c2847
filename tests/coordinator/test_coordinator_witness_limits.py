"""The witness's HTTP interface among people who mean harm: sizes, times, and any bytes at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave_coordinator.api import tlog_witness
from exclave_http import bounded
from exclave_protocol.witness import MAX_BODY
from exclave_testing.coordinator import TIMEOUT
from exclave_testing.witness_http import Asked
from exclave_testing.witnesses import OutsideTree


async def test_413_and_408_bodies_without_end(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asked.status(b"x" * (MAX_BODY + 1)) == 413

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3 * MAX_BODY // 65_536):
            yield b"x" * 65_536

    answer = await asked.http.post("/add-checkpoint", content=endless())
    assert answer.status_code == 413
    monkeypatch.setattr(tlog_witness, "BODY_SECONDS", 0.1)
    host, _, port = asked.centre.up.witness.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: 100\r\n\r\nold")
    async with asyncio.timeout(TIMEOUT):
        assert b" 408 " in await reader.readline()
        await reader.read()  # and the connection ends
    writer.close()


async def test_heads_without_end_and_clients_that_say_nothing(
    asked: Asked, outside: OutsideTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "HEAD_SECONDS", 0.1)
    host, _, port = asked.centre.up.witness.rpartition(":")
    for sent in (
        b"POST /add-checkpoint HTTP/1.1\r\nx: " + b"y" * (bounded.MAX_HEAD + 1),
        b"",
        b"PO",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(TIMEOUT):
            said = await reader.read()
        assert said.startswith(b"HTTP/1.1 400 ") if len(sent) > 2 else said == b""
        writer.close()
    assert await asked.status(outside.request(0)) == 200


async def test_hostile_bodies_are_refused_and_change_nothing(
    asked: Asked, outside: OutsideTree
) -> None:
    good = outside.request(0).encode()
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.binary(max_size=400), st.integers(0, len(good)), st.integers(0, len(good)))
    def attack(noise: bytes, begin: int, end: int) -> None:
        body = good[: min(begin, end)] + noise + good[max(begin, end) :]
        if body != good:
            work = asyncio.run_coroutine_threadsafe(asked.status(body), loop)
            assert work.result(TIMEOUT) in (400, 403, 404, 409, 422)

    await asyncio.to_thread(attack)
    assert await asked.leaves() == []
    assert await asked.status(good) == 200
