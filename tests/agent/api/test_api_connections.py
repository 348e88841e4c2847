"""Connections that want nothing good, over real sockets: the others are served all the same."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx
import pytest
import uvloop

from exclave_agent.api.exchange import Limits
from exclave_agent.api.server import Listening
from exclave_http import bounded as connections
from exclave_testing.local_api import ANALYST, LocalApi, served, until
from exclave_testing.runtimes import FakeRuntimes

CHAT = "/v1/chat/completions"
AUTH = {"authorization": f"Bearer {ANALYST}"}
BODY: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 64,
}
THOUSAND = 1000


async def connect(listening: Listening) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(listening.host, listening.port)


def request(body: object) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: agent\r\nauthorization: Bearer {ANALYST}\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def has_ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the server has closed it, in whatever way."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    return True


# --- half open ----------------------------------------------------------------------------------


@pytest.fixture
def descriptors() -> None:
    """Both ends of a thousand connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 4 * THOUSAND, "this machine allows too few open files for the test"
    if soft < 4 * THOUSAND:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * THOUSAND, hard))


def test_a_thousand_half_open_connections_lock_nobody_out(
    monkeypatch: pytest.MonkeyPatch, descriptors: None
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 2.0)

    async def main() -> None:
        async with served() as (api, listening), AsyncExitStack() as stack:
            readers = []

            async def trickle(writer: asyncio.StreamWriter) -> None:
                with suppress(ConnectionError, RuntimeError):  # the latter: uvloop, when closed
                    for byte in b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 1000:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.05)

            trickling = await stack.enter_async_context(asyncio.TaskGroup())
            for index in range(THOUSAND):
                reader, writer = await connect(listening)
                stack.callback(writer.close)
                readers.append(reader)
                if index % 2:
                    trickling.create_task(trickle(writer))
            async with httpx.AsyncClient(base_url=listening.base_url, headers=AUTH) as http:
                for _ in range(20):
                    assert (await http.get("/healthz")).status_code == 200
                    assert (await http.post(CHAT, json=BODY)).status_code == 200
            assert len(api.results()) == 20
            async with asyncio.timeout(10):
                assert all(await asyncio.gather(*map(has_ended, readers)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_the_longest_silent_connection_gives_way() -> None:
    async with served(max_connections=3) as (_, listening):
        held = [await connect(listening) for _ in range(3)]
        async with httpx.AsyncClient(base_url=listening.base_url) as http:
            assert (await http.get("/healthz")).status_code == 200
            async with asyncio.timeout(5):
                assert await has_ended(held[0][0])
            # The two others still stand, and may yet ask.
            for reader, writer in held[1:]:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()


async def test_a_kept_connection_outlives_those_that_never_asked() -> None:
    async with served(max_connections=3) as (_, listening):
        kept, writer = await connect(listening)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            await kept.readuntil(b'{"status":"live"}')
            silent = [await connect(listening) for _ in range(8)]
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        await kept.readuntil(b'{"status":"live"}')
        for _, other in (*silent, (kept, writer)):
            other.close()


async def test_a_busy_connection_never_gives_way_and_one_request_more_is_turned_away() -> None:
    async with served(LocalApi(FakeRuntimes(token_latency=3600)), max_connections=2) as (
        api,
        listening,
    ):
        busy = [await connect(listening) for _ in range(2)]
        for _, writer in busy:
            writer.write(request(BODY | {"stream": True}))
        await until(lambda: len(api.models.requests) == 2)
        async with httpx.AsyncClient(base_url=listening.base_url) as http:
            for _ in range(3):
                refused = await http.get("/healthz")
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "too_many_requests"
                assert refused.headers["retry-after"] == "1"
        assert api.outcomes() == []
        busy[0][1].close()
        await until(lambda: len(api.results()) == 1)
        async with httpx.AsyncClient(base_url=listening.base_url) as http:
            assert (await http.get("/healthz")).status_code == 200
        busy[1][1].close()


# --- refused in mid-body ---------------------------------------------------------------------


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("announced", [True, False])
def test_a_sender_that_closes_reads_why_its_body_was_refused(
    loop: Callable[[], asyncio.AbstractEventLoop], announced: bool
) -> None:
    """As urllib and others: `connection: close`, all of the body first, then the answer."""
    size = 10_000_000
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    head += f"authorization: Bearer {ANALYST}\r\n"
    framing = f"content-length: {size}" if announced else "transfer-encoding: chunked"
    body = bytes(size) if announced else b"%x\r\n%s\r\n0\r\n\r\n" % (size, bytes(size))

    async def main() -> bytes:
        async with served() as (_, listening):
            reader, writer = await connect(listening)
            writer.write(f"{head}{framing}\r\n\r\n".encode())
            for at in range(0, len(body), 100_000):
                writer.write(body[at : at + 100_000])
                await writer.drain()
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            return answer

    with asyncio.Runner(loop_factory=loop) as runner:
        answer = runner.run(main())
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"4194304" in answer


async def test_a_refused_sender_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    async with served() as (_, listening):
        reader, writer = await connect(listening)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: 1000000\r\n\r\n".encode())  # no key: 401 at once
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 401")
            while not writer.transport.is_closing():  # it drips on, and is cut off
                writer.write(b"x")
                await asyncio.sleep(0.01)
        writer.close()


# --- nobody reads -------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_caller_who_never_reads_loses_slot_and_connection(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The model's slot is free for the next, and the bytes that nobody fetches are dropped."""
    monkeypatch.setattr(connections, "CLOSE_SECONDS", 0.3)
    pieces = ["x" * 200_000] * 64
    api = LocalApi(FakeRuntimes(reply=lambda request: pieces), Limits(send_seconds=0.05))

    async def main() -> None:
        async with served(api) as (_, listening):
            _, writer = await connect(listening)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a read transport
            writer.write(request(BODY | {"stream": True}))
            await until(lambda: len(api.results()) == 1)
            assert api.outcomes() == [("cancelled", "client_gone")]
            await asyncio.wait_for(api.models.close(), 5)  # no slot is held
            # The end comes without our reading a byte: the server has dropped what it held.
            async with asyncio.timeout(10):
                while not writer.transport.is_closing():
                    writer.write(b"?")
                    await asyncio.sleep(0.01)
            writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_plain_answer_that_nobody_reads_is_dropped_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CLOSE_SECONDS", 0.3)
    pieces = ["x" * 200_000] * 30  # a record holds 8 MiB
    async with served(LocalApi(FakeRuntimes(reply=lambda request: pieces))) as (api, listening):
        _, writer = await connect(listening)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        writer.write(request(BODY).replace(b"host:", b"connection: close\r\nhost:"))
        await until(lambda: bool(api.outcomes()))
        assert api.outcomes() == [("answered", "")]
        async with asyncio.timeout(10):
            while not writer.transport.is_closing():
                writer.write(b"?")
                await asyncio.sleep(0.01)
        writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_on_a_held_answer_frees_the_model(stream: bool) -> None:
    """With a schema nothing is sent until the end: only the connection tells that he is gone."""
    async with served(LocalApi(FakeRuntimes(token_latency=3600))) as (api, listening):
        _, writer = await connect(listening)
        form = {"type": "json_object"}
        writer.write(request(BODY | {"stream": stream, "response_format": form}))
        await until(lambda: len(api.models.requests) == 1)
        writer.close()
        await until(lambda: len(api.results()) == 1)
        assert api.outcomes() == [("cancelled", "client_gone")]
        await asyncio.wait_for(api.models.close(), 5)
