"""The server itself, over real sockets: limits, callers who leave, and an orderly stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvloop

from exclave_agent.api.exchange import Limits
from exclave_agent.api.server import CannotListen, Listening, serving
from exclave_http import bounded as connections
from exclave_testing.local_api import ANALYST, LocalApi, served, until
from exclave_testing.runtimes import FakeRuntimes

CHAT = "/v1/chat/completions"
AUTH = {"authorization": f"Bearer {ANALYST}"}
BODY = {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}


def endless() -> LocalApi:
    """Its first token comes at once, the next in an hour."""
    return LocalApi(FakeRuntimes(token_latency=3600))


def request(body: object, path: str = CHAT, extra: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: agent\r\nauthorization: Bearer {ANALYST}\r\n"
        f"content-length: {len(content)}\r\n{extra}\r\n"
    )
    return head.encode() + content


async def connect(listening: Listening) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(listening.host, listening.port)


async def closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


async def test_tcp_and_unix_socket_serve_the_same(tmp_path: Path) -> None:
    unix = tmp_path / "run" / "agent.sock"
    async with served(unix=unix) as (_, listening):
        assert listening.unix == unix
        assert stat.S_IMODE(unix.stat().st_mode) == 0o660
        async with httpx.AsyncClient(base_url=listening.base_url, headers=AUTH) as tcp:
            assert (await tcp.post(CHAT, json=BODY)).status_code == 200
            assert (await tcp.get("/metrics")).status_code == 200
        transport = httpx.AsyncHTTPTransport(uds=str(unix))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as local:
            assert (await local.post(CHAT, json=BODY, headers=AUTH)).status_code == 200
            assert (await local.get("/metrics")).status_code == 200
            assert (await local.get("/v1/models")).status_code == 401
    assert not unix.exists()


def test_it_serves_on_uvloop(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        unix = tmp_path / "agent.sock"
        async with served(unix=unix) as (_, listening):
            transport = httpx.AsyncHTTPTransport(uds=str(unix))
            async with httpx.AsyncClient(transport=transport, headers=AUTH) as local:
                first = await local.post("http://agent" + CHAT, json=BODY)
            async with httpx.AsyncClient(headers=AUTH) as tcp:
                second = await tcp.post(listening.base_url + CHAT, json=BODY)
            return first.status_code, second.status_code

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == (200, 200)


async def test_a_socket_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    unix = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(unix))
    async with served(unix=unix):
        pass
    unix.write_text("precious")
    api = LocalApi()
    with pytest.raises(CannotListen, match="not a socket"):
        async with serving(api.app, port=0, unix=unix):
            pass
    assert unix.read_text() == "precious"


async def test_a_socket_that_answers_is_not_taken_over(tmp_path: Path) -> None:
    unix = tmp_path / "agent.sock"
    async with served(unix=unix) as (api, _):
        with pytest.raises(CannotListen, match="another process"):
            async with serving(api.app, host=None, unix=unix):
                pass
        transport = httpx.AsyncHTTPTransport(uds=str(unix))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as local:
            assert (await local.get("/healthz")).status_code == 200


async def test_a_socket_path_that_no_socket_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="107 bytes"):
        async with serving(LocalApi().app, host=None, unix=tmp_path / ("x" * 108)):
            pass


async def test_a_socket_may_be_its_owners_alone(tmp_path: Path) -> None:
    unix = tmp_path / "control.sock"
    async with serving(LocalApi().app, host=None, unix=unix, unix_mode=0o600):
        assert stat.S_IMODE(unix.stat().st_mode) == 0o600


async def test_a_taken_port_is_named() -> None:
    async with served() as (api, listening):
        with pytest.raises(CannotListen, match=str(listening.port)):
            async with serving(api.app, port=listening.port or 0):
                pass


async def test_an_error_of_the_agent_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with served():
            raise KeyError


async def test_signals_are_left_to_the_agent() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with served():
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("how", ["hurry", "cancel"])
async def test_told_to_hurry_it_cancels_what_runs_and_all_of_it_is_recorded(how: str) -> None:
    api, leaving, hurry = endless(), asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with served(api, stop_grace=3600, hurry=hurry) as (_, listening):
            _, writer = await connect(listening)
            writer.write(request(BODY | {"stream": True}))
            await until(lambda: len(api.models.requests) == 1)
            leaving.set()

    task = asyncio.create_task(serve())
    await leaving.wait()
    await asyncio.sleep(0)
    assert api.outcomes() == []
    if how == "hurry":
        hurry.set()
        await asyncio.wait_for(task, 10)
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
    assert [outcome for outcome, _ in api.outcomes()] == ["cancelled"]


async def test_told_to_hurry_beforehand_it_does_not_wait_either() -> None:
    api, hurry = endless(), asyncio.Event()
    async with served(api, stop_grace=3600, hurry=hurry) as (_, listening):
        _, writer = await connect(listening)
        writer.write(request(BODY | {"stream": True}))
        await until(lambda: len(api.models.requests) == 1)
        hurry.set()
    assert [outcome for outcome, _ in api.outcomes()] == ["cancelled"]


# --- callers who leave ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_frees_the_model_and_is_recorded(stream: bool) -> None:
    async with served(endless()) as (api, listening):
        reader, writer = await connect(listening)
        writer.write(request(BODY | {"stream": stream}))
        await until(lambda: len(api.models.requests) == 1)
        if stream:
            await reader.readuntil(b'"content":"the"')
        writer.close()
        await until(lambda: len(api.results()) == 1)
        assert api.outcomes() == [("cancelled", "client_gone")]
        assert api.log.drafts[1].private == {"output": "the"} or not stream
        await asyncio.wait_for(api.models.close(), 5)  # no slot is held


async def test_a_caller_who_hangs_up_on_tensors_is_recorded() -> None:
    async with served(LocalApi(FakeRuntimes(latency=3600))) as (api, listening):
        _, writer = await connect(listening)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        writer.write(request({"inputs": [tensor]}, "/v2/models/score/infer"))
        await until(lambda: len(api.log.of_type("INTENT")) == 1)
        writer.close()
        await until(lambda: len(api.results()) == 1)
        assert api.outcomes() == [("cancelled", "client_gone")]


async def test_a_caller_who_stops_reading_counts_as_gone() -> None:
    runtimes = FakeRuntimes(reply=lambda request: ["x" * 200_000] * 64)
    limits = Limits(send_seconds=0.05)
    async with served(LocalApi(runtimes, limits)) as (api, listening):
        _, writer = await connect(listening)
        writer.write(request(BODY | {"stream": True, "max_tokens": 64}))
        await until(lambda: len(api.results()) == 1)
        assert api.outcomes() == [("cancelled", "client_gone")]
        writer.close()


async def test_a_caller_who_leaves_in_mid_body_makes_no_decision() -> None:
    async with served() as (api, listening):
        _, writer = await connect(listening)
        writer.write(request(BODY)[:-5])
        await writer.drain()
        writer.close()
        async with httpx.AsyncClient(base_url=listening.base_url, headers=AUTH) as http:
            assert (await http.post(CHAT, json=BODY)).status_code == 200
        assert len(api.results()) == 1


# --- limits ---------------------------------------------------------------------------------


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    async with served(LocalApi(limits=Limits(body_bytes=1000))) as (api, listening):
        reader, writer = await connect(listening)
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ANALYST}\r\n"
            "content-length: 10000000\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.readuntil(b'"code":"body_too_large"}}'), 5)
        assert answer.startswith(b"HTTP/1.1 413")
        writer.write(bytes(10_000_000) + request(BODY))  # what still comes is discarded
        answer = await asyncio.wait_for(reader.readline(), 5)
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
        async with httpx.AsyncClient(base_url=listening.base_url, headers=AUTH) as http:

            async def endless_body() -> AsyncIterator[bytes]:
                for _ in range(100):
                    yield b"x" * 100

            response = await http.post(CHAT, content=endless_body())
            assert response.status_code == 413
            exact = json.dumps(BODY).encode()
            exact += b" " * (1000 - len(exact))
            assert (await http.post(CHAT, content=exact)).status_code == 200
            assert (await http.post(CHAT, content=exact + b" ")).status_code == 413
        assert len(api.results()) == 2


async def test_a_refused_body_is_not_discarded_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    async with served(LocalApi(limits=Limits(body_bytes=1000))) as (_, listening):
        reader, writer = await connect(listening)
        writer.write(request(BODY).replace(b"content-length: ", b"content-length: 9999"))
        await asyncio.wait_for(reader.readuntil(b'"code":"body_too_large"}}'), 5)
        writer.write(b"more")
        assert await closed(reader) == b""
        writer.close()


async def test_a_body_that_does_not_arrive_times_out() -> None:
    async with served(LocalApi(limits=Limits(body_seconds=0.05))) as (_, listening):
        for sent in (request(BODY)[:-5], request(BODY).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"):
            reader, writer = await connect(listening)
            writer.write(sent)
            line = await asyncio.wait_for(reader.readline(), 5)
            assert line.startswith(b"HTTP/1.1 408")
            writer.close()


async def test_compressed_bodies_are_refused() -> None:
    async with served() as (_, listening), httpx.AsyncClient(headers=AUTH) as http:
        response = await http.post(
            listening.base_url + CHAT, json=BODY, headers={"content-encoding": "gzip"}
        )
        assert response.status_code == 415


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nx: " + b"y" * (connections.MAX_HEAD + 1),
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x: yyyyyyyy\r\n" * 4000 + b"\r\n",
        b"GET /" + b"y" * (connections.MAX_HEAD + 1) + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    ],
    ids=["endless-header", "many-headers", "long-url", "not-http"],
)
async def test_a_request_head_is_bounded(head: bytes) -> None:
    async with served() as (_, listening):
        reader, writer = await connect(listening)
        writer.write(head)
        assert (await closed(reader)).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    async with served() as (_, listening):
        silent, writer = await connect(listening)
        assert await closed(silent) == b""
        writer.close()
        slow, writer = await connect(listening)
        writer.write(request(BODY))
        assert (await asyncio.wait_for(slow.readline(), 5)).startswith(b"HTTP/1.1 200")
        await slow.readuntil(b'"cached_tokens":0}}}')
        writer.write(b"GET /healthz HT")  # a further request that stays half
        assert await closed(slow) == b""
        writer.close()


async def test_a_slow_answer_is_not_taken_for_a_slow_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.02)
    async with served(LocalApi(FakeRuntimes(latency=0.2))) as (_, listening):
        reader, writer = await connect(listening)
        writer.write(request(BODY) + b"GET /hea")  # pipelined, and incomplete
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_requests_in_one_packet_are_answered_in_order() -> None:
    async with served() as (api, listening):
        reader, writer = await connect(listening)
        writer.write(request(BODY) * 3)
        for _ in range(3):
            await asyncio.wait_for(reader.readuntil(b'"cached_tokens":0}}}'), 5)
        assert len(api.results()) == 3
        writer.close()


# --- stopping -------------------------------------------------------------------------------


async def test_stopping_lets_running_requests_finish() -> None:
    api = LocalApi(FakeRuntimes(latency=0.3))
    async with api.open(), httpx.AsyncClient(headers=AUTH) as http:
        async with serving(api.app, port=0) as listening:
            running = asyncio.ensure_future(http.post(listening.base_url + CHAT, json=BODY))
            await until(lambda: len(api.models.requests) == 1)
            assert not running.done()
        assert (await running).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await http.get(listening.base_url + "/healthz")
    assert api.outcomes() == [("answered", "")]


async def test_stopping_cancels_and_records_what_outlasts_the_grace() -> None:
    api = endless()
    async with api.open():
        async with serving(api.app, port=0, stop_grace=1) as listening:
            reader, writer = await connect(listening)
            writer.write(request(BODY | {"stream": True}))
            await reader.readuntil(b'"content":"the"')
        assert b"[DONE]" not in await closed(reader)
        writer.close()
    # The pipeline is left: whatever was to be recorded is.
    assert api.outcomes() == [("cancelled", "client_gone")]


async def test_a_cancelled_agent_still_stops_in_order() -> None:
    api = LocalApi(FakeRuntimes(latency=0.2))

    async def agent() -> None:
        async with api.open(), serving(api.app, port=0) as listening:
            reader, writer = await connect(listening)
            writer.write(request(BODY))
            await until(lambda: len(api.models.requests) == 1)
            asyncio.get_running_loop().call_soon(task.cancel)
            try:
                await asyncio.sleep(3600)
            finally:
                reading.append(asyncio.ensure_future(closed(reader)))

    reading: list[asyncio.Future[bytes]] = []
    task = asyncio.ensure_future(agent())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await reading[0]).startswith(b"HTTP/1.1 200")
    assert api.outcomes() == [("answered", "")]
