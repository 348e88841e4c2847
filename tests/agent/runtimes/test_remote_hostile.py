"""Endpoints that are slow, broken or bad, over real sockets: what they do stays harmless."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.errors import (
    AgentError,
    DeadlineExceeded,
    Overloaded,
    RemoteFailed,
    TooManyTokens,
    Unavailable,
)
from exclave_agent.ports import Delta, Generate, Message, Sampling, Tool
from exclave_agent.runtimes.remote import RemoteModel
from exclave_agent.runtimes.remote_answers import EventLines
from exclave_agent.runtimes.remote_answers import vectors as answers_vectors
from exclave_agent.runtimes.remote_http import Connection, retry_after
from exclave_protocol.endpoint import EndpointTimeouts
from exclave_testing.endpoints import (
    DONE,
    GOOD,
    HEAD,
    KEY,
    Asked,
    FakeEndpoint,
    Opened,
    ask,
    count,
    document,
    event,
    piece,
    refuses,
    says,
    text_of,
)

SECRET = "the patient is called Mabuse"
REQUEST = Generate("remote", Sampling(max_tokens=8), (Message("user", SECRET),), caller="11111111")
QUICK = EndpointTimeouts(1_000, 1_000, 4_000)
PROMPT_AT_MOST = len(SECRET) + len("user") + 64 + 16


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path)
    yield made
    await made.runtime.close()


async def failure(model: RemoteModel, request: Generate = REQUEST) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await ask(model, request)
    error = caught.value
    assert SECRET not in "".join(map(str, (error, error.__cause__, error.message)))
    assert error.__suppress_context__ or error.__context__ is None
    return error


async def test_an_honest_answer_is_taken_whole(opened: Opened) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
    assert text_of(deltas) == "hello"
    assert (end.reason, end.prompt_tokens, end.completion_tokens, end.cached_tokens) == (
        "stop",
        7,
        2,
        3,
    )
    assert end.timing.prefill_us > 0


@pytest.mark.parametrize("size", [1, 2, 7, 100])
async def test_an_answer_in_small_pieces_is_the_same(opened: Opened, size: int) -> None:
    data = b"".join(GOOD[1:]).replace(b"\n", b"\r\n")
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    async with FakeEndpoint(says(HEAD, *chunks)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
    assert (text_of(deltas), end.completion_tokens) == ("hello", 2)


# --- slow ------------------------------------------------------------------------------------


async def never(_: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def begins(_: Asked, writer: asyncio.StreamWriter) -> None:
    for chunk in GOOD[:3]:
        writer.write(chunk)
    await asyncio.Event().wait()


async def comments(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    while True:
        writer.write(b": still here\n\n")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [never, begins, comments])
async def test_silence_ends(opened: Opened, answer: object) -> None:
    async with FakeEndpoint(answer).open() as server:  # type: ignore[arg-type]  # parametrized
        begun = time.monotonic()
        error = await failure(opened.model(document(server.url, timeouts=QUICK)))
        assert (error.code, time.monotonic() - begun < 20) == ("remote_timeout", True)
        async with asyncio.timeout(20):
            await server.hung_up.wait()


async def test_an_answer_that_drips_ends_at_the_total(opened: Opened) -> None:
    async def drips(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(piece("a"))
            await asyncio.sleep(0.1)

    many = replace(REQUEST, sampling=Sampling(max_tokens=1000))
    async with FakeEndpoint(drips).open() as server:
        error = await failure(opened.model(document(server.url, timeouts=QUICK)), many)
    assert error.code == "remote_timeout"


async def test_the_callers_own_time_counts_as_that(opened: Opened) -> None:
    async with FakeEndpoint(never).open() as server:
        error = await failure(opened.model(document(server.url)), replace(REQUEST, timeout=0.2))
    assert isinstance(error, DeadlineExceeded)


async def test_nobody_listens(opened: Opened) -> None:
    async with FakeEndpoint(never).open() as server:
        url = server.url
    error = await failure(opened.model(document(url)))
    assert error.code == "remote_unreachable"


async def test_a_name_that_does_not_exist(opened: Opened) -> None:
    error = await failure(opened.model(document("https://endpoint.invalid/v1", timeouts=QUICK)))
    assert error.code in ("remote_unreachable", "remote_timeout")


# --- broken ----------------------------------------------------------------------------------

BROKEN = {
    "cut": (HEAD, piece("hel")),
    "cut in a line": (HEAD, piece("hel"), piece("lo", "stop")[:20]),
    "nothing": (HEAD,),
    "no finish": (HEAD, piece("hello"), DONE),
    "not JSON": (HEAD, b"data: {oops\n\n"),
    "another form": (HEAD, event({"choices": "many"})),
    "a list": (HEAD, event([1, 2])),
    "deep": (HEAD, b"data: " + b'{"usage":' + b"[" * 50_000 + b"\n\n"),
    "invalid UTF-8": (HEAD, b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n'),
    "lone surrogate": (HEAD, b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'),
    "an error": (HEAD, piece("hel"), event({"error": {"message": SECRET}})),
    "a page": (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n",
        b"<html>" + SECRET.encode(),
    ),
    "a long line": (HEAD, b"data: " + b"x" * (3 << 20)),
    "a long event": (HEAD, *[b"data: " + b"x" * 65_536 + b"\n"] * 40),
    "packed": (
        HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"),
        b"\x1f\x8b" + bytes(100),
    ),
    "short body": (
        HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 100000\r\n\r\n"),
        piece("hel"),
    ),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n",),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_answer_is_a_failure(opened: Opened, how: str) -> None:
    async with FakeEndpoint(says(*BROKEN[how])).open() as server:
        error = await failure(opened.model(document(server.url)))
    assert isinstance(error, RemoteFailed)
    assert error.code in ("remote_failed", "remote_unreachable")


async def test_a_stream_without_end_is_cut_at_the_limit(opened: Opened) -> None:
    async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(piece("word "))
            await writer.drain()

    async with FakeEndpoint(endless).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
        async with asyncio.timeout(5):
            await server.hung_up.wait()
    assert text_of(deltas) == "word " * 8
    assert (end.reason, end.completion_tokens, end.prompt_tokens) == ("length", 8, PROMPT_AT_MOST)


async def test_pieces_without_end_that_hold_no_text_are_cut(opened: Opened) -> None:
    async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(piece("") * 100)
            await writer.drain()

    async with FakeEndpoint(endless).open() as server:
        error = await failure(opened.model(document(server.url)))
    assert error.code in ("remote_failed", "remote_timeout")


async def test_one_piece_longer_than_the_limit_allows_is_cut(opened: Opened) -> None:
    async with FakeEndpoint(says(HEAD, piece("x" * 100_000), count(), DONE)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
    assert (deltas, end.reason, end.completion_tokens) == ([], "length", 8)


# --- counts ----------------------------------------------------------------------------------

WRONG = {
    "none": b"",
    "null": event({"choices": [], "usage": None}),
    "words": count("many", "few"),
    "negative": count(-5, -1),
    "floats": count(1.5, 2.5),
    "booleans": count(True, True),
    "huge": count(10**15, 10**15),
    "zero": count(0, 0),
    "a list": event({"choices": [], "usage": [1]}),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_count_books_the_most_there_can_be(opened: Opened, how: str) -> None:
    answer = (HEAD, piece("hel"), piece("lo", "stop"), WRONG[how], DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
    assert text_of(deltas) == "hello"
    assert (end.prompt_tokens, end.completion_tokens, end.cached_tokens) == (PROMPT_AT_MOST, 5, 0)


async def test_more_cached_than_read_is_not_believed(opened: Opened) -> None:
    answer = (HEAD, piece("hello", "stop"), count(7, 1, 1000), DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        _, end = await ask(opened.model(document(server.url)), REQUEST)
    assert (end.prompt_tokens, end.cached_tokens) == (7, 7)


async def test_a_finished_answer_does_not_wait_long_for_its_count(opened: Opened) -> None:
    async def holds(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + piece("hello", "stop"))
        await asyncio.Event().wait()

    quick = EndpointTimeouts(1_000, 1_000, 2_000)
    async with FakeEndpoint(holds).open() as server:
        deltas, end = await ask(opened.model(document(server.url, timeouts=quick)), REQUEST)
    assert (text_of(deltas), end.completion_tokens) == ("hello", 5)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "remote_refused"),
        (401, "remote_unauthorized"),
        (403, "remote_unauthorized"),
        (404, "remote_refused"),
        (408, "remote_timeout"),
        (413, "remote_refused"),
        (422, "remote_refused"),
        (429, "remote_overloaded"),
        (500, "remote_failed"),
        (502, "remote_failed"),
        (503, "remote_overloaded"),
        (529, "remote_overloaded"),
    ],
)
async def test_a_refusal_is_told_without_its_words(opened: Opened, status: int, code: str) -> None:
    body = json.dumps({"error": {"message": SECRET, "code": SECRET, "type": SECRET}}).encode()
    headers = ("retry-after: 7", "content-type: application/json", f"x-request-id: {SECRET}")
    async with FakeEndpoint(refuses(status, body, headers)).open() as server:
        error = await failure(opened.model(document(server.url)))
        assert len(server.asked) == 1, "retries belong to the route"
    assert isinstance(error, RemoteFailed)
    assert error.code == code
    if code == "remote_overloaded":
        assert error.retry_after == 7.0


async def test_a_context_that_is_too_small_is_told_as_ours(opened: Opened) -> None:
    body = json.dumps({"error": {"message": SECRET, "code": "context_length_exceeded"}}).encode()
    headers = ("content-type: application/json",)
    async with FakeEndpoint(refuses(400, body, headers)).open() as server:
        assert isinstance(await failure(opened.model(document(server.url))), TooManyTokens)


async def test_an_endless_refusal_is_not_read(opened: Opened) -> None:
    async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with FakeEndpoint(endless).open() as server:
        error = await failure(opened.model(document(server.url)))
    assert error.code == "remote_failed"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(opened: Opened, status: int) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as other:
        location = f"location: {other.url}/chat/completions"
        async with FakeEndpoint(refuses(status, b"", (location,))).open() as server:
            error = await failure(opened.model(document(server.url)))
            assert "redirect" in error.message
    assert other.asked == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "inf"}, 3600.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": SECRET}, None),
        ({"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "1 Jan 9" + "9" * 30}, None),
        ({}, None),
        (
            {
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
            },
            30.0,
        ),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


# --- tools -----------------------------------------------------------------------------------

TOOLS = replace(REQUEST, tools=(Tool("add"), Tool("sub")), sampling=Sampling(max_tokens=64))


def part(index: int | None, name: str | None, text: str, call: str | None = None) -> bytes:
    function = {"arguments": text} | ({} if name is None else {"name": name})
    found: dict[str, object] = {"function": function} | ({} if call is None else {"id": call})
    return piece(tool_calls=[found if index is None else found | {"index": index}])


async def test_tool_calls_are_put_together(opened: Opened) -> None:
    answer = (
        HEAD,
        part(0, "add", "", "call_a"),
        part(0, None, '{"x":'),
        part(1, "sub", "{}", "call_b"),
        part(0, None, "1}"),
        piece(finish="tool_calls"),
        count(),
        DONE,
    )
    async with FakeEndpoint(says(*answer)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), TOOLS)
    (whole,) = deltas
    assert [(c.id, c.name, c.arguments) for c in whole.tool_calls] == [
        ("call_a", "add", '{"x":1}'),
        ("call_b", "sub", "{}"),
    ]
    assert end.reason == "tool_calls"


async def test_calls_without_a_place_or_an_id_are_whole_ones(opened: Opened) -> None:
    answer = (HEAD, part(None, "add", "{}"), part(None, "add", "[]"), piece(finish="stop"), DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), TOOLS)
    calls = deltas[-1].tool_calls
    assert [call.arguments for call in calls] == ["{}", "[]"]
    assert len({call.id for call in calls}) == 2 and calls[0].id.startswith("call_")
    assert end.reason == "tool_calls"


@pytest.mark.parametrize("index", [-1, 128, 10**9])
async def test_too_many_calls(opened: Opened, index: int) -> None:
    answer = (HEAD, part(index, "add", "{}"), piece(finish="stop"), DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        assert "tool calls" in (await failure(opened.model(document(server.url)), TOOLS)).message


@pytest.mark.parametrize("request_", [TOOLS, replace(TOOLS, tool_choice="none"), REQUEST])
async def test_a_call_of_what_was_not_offered(opened: Opened, request_: Generate) -> None:
    name = "add" if request_ is not TOOLS else "rm"
    answer = (HEAD, part(0, name, "{}", "call_a"), piece(finish="tool_calls"), DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        error = await failure(opened.model(document(server.url)), request_)
    assert "was not offered" in error.message


async def test_a_call_that_was_required_and_is_missing(opened: Opened) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as server:
        request = replace(TOOLS, tool_choice="required")
        error = await failure(opened.model(document(server.url)), request)
    assert "though one was required" in error.message


# --- leaving, and too many -------------------------------------------------------------------


async def test_closing_the_iterator_ends_the_request(opened: Opened) -> None:
    async with FakeEndpoint(begins).open() as server:
        model = opened.model(document(server.url, max_concurrency=1, max_waiting=0))
        events = model.generate(REQUEST)
        first = await anext(events)
        assert isinstance(first, Delta) and first.text == "hel"
        await events.aclose()
        async with asyncio.timeout(5):
            await server.hung_up.wait()
        # And its place is free: the next one is not turned away.
        async with contextlib.aclosing(model.generate(REQUEST)) as again:
            assert await anext(again)


async def test_cancelling_ends_the_request(opened: Opened) -> None:
    async with FakeEndpoint(never).open() as server:
        task = asyncio.create_task(ask(opened.model(document(server.url)), REQUEST))
        while not server.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_the_waiting_room_is_bounded(opened: Opened) -> None:
    release = asyncio.Event()

    async def held(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await says(*GOOD)(asked, writer)

    async with FakeEndpoint(held).open() as server:
        model = opened.model(document(server.url, max_concurrency=2, max_waiting=1))
        tasks = [asyncio.create_task(ask(model, REQUEST)) for _ in range(3)]
        while len(server.asked) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as caught:
            await ask(model, REQUEST)
        assert caught.value.retry_after == 1.0
        assert len(server.asked) == 2, "the third waits here, not there"
        release.set()
        assert [text_of(deltas) for deltas, _ in await asyncio.gather(*tasks)] == ["hello"] * 3


async def test_without_a_key_nothing_is_sent_and_with_it_it_is(opened: Opened) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as server:
        model = opened.model(document(server.url), key=None)
        assert model.info.degraded == "no key main: exclave-agent secret set main"
        assert (await failure(model)).code == "remote_unauthorized"
        assert server.asked == []
        opened.keys.set("main", "sk-1")
        assert model.info.degraded == ""
        await ask(model, REQUEST)
        opened.keys.set("main", "sk-2")
        await ask(model, REQUEST)
        opened.keys.remove("main")
        assert (await failure(model)).code == "remote_unauthorized"
    assert [one.headers["authorization"] for one in server.asked] == ["Bearer sk-1", "Bearer sk-2"]


async def test_a_closed_model_says_so(opened: Opened) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as server:
        model = opened.model(document(server.url))
        await ask(model, REQUEST)
        await model.close()
        await model.close()
        assert (await failure(model)).code == "unavailable"


# --- embeddings ------------------------------------------------------------------------------


def vectors(*rows: object, usage: object = None) -> bytes:
    body = json.dumps({"data": list(rows), "usage": usage}).encode()
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        + f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def test_vectors_come_in_order_and_of_length_one(opened: Opened) -> None:
    rows = ({"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [3.0, 4.0]})
    body = vectors(*rows, usage={"prompt_tokens": 5})
    async with FakeEndpoint(says(body)).open() as server:
        found = await opened.model(document(server.url)).embed(["a", "b"])
    assert found.vectors == ((0.6, 0.8), (0.0, 1.0))
    assert found.prompt_tokens == 5


def test_large_numbers_have_a_direction_too() -> None:
    # The squares of each overflow their sum, and not themselves.
    body = json.dumps({"data": [{"index": 0, "embedding": [1.2e154] * 4}]}).encode()
    ((vector,), _) = answers_vectors(body, 1)
    assert vector == pytest.approx((0.5,) * 4)


def test_a_million_empty_lines_of_an_event_are_refused_in_no_time() -> None:
    lines, began = EventLines(1 << 30), time.monotonic()
    with pytest.raises(RemoteFailed, match="event longer"):
        list(lines.feed(b"data:\n" * 2_000_000))
    assert time.monotonic() - began < 5


async def test_libraries_log_nothing_of_a_request_at_any_level(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeEndpoint(says(*GOOD)).open() as server:
        await ask(opened.model(document(server.url)), REQUEST)
    logged = "".join(f"{one.name} {one.getMessage()}" for one in caplog.records)
    assert SECRET not in logged
    assert KEY not in logged
    assert "openai" not in logged


async def test_a_model_that_is_closed_while_it_connects_leaves_no_connection(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened.model(document("http://127.0.0.1:9/v1"))
    made: list[Connection] = []
    loop, connect = asyncio.get_running_loop(), model._connect

    def closed_meanwhile() -> Connection:
        made.append(connect())
        asyncio.run_coroutine_threadsafe(model.close(), loop).result(5)
        return made[0]

    monkeypatch.setattr(model, "_connect", closed_meanwhile)
    with pytest.raises(Unavailable):
        await ask(model, REQUEST)
    assert made[0]._client.is_closed()


@pytest.mark.parametrize(
    "body",
    [
        vectors(),
        vectors({"index": 0, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}),
        vectors({"index": 0, "embedding": []}, {"index": 1, "embedding": []}),
        vectors({"index": 0, "embedding": [0.0]}, {"index": 1, "embedding": [0.0]}),
        vectors({"index": 0, "embedding": [1e308] * 9}, {"index": 1, "embedding": [1e308] * 9}),
        vectors({"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}),
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * (4 << 20),
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    ],
)
async def test_wrong_vectors(opened: Opened, body: bytes) -> None:
    async with FakeEndpoint(says(body)).open() as server:
        with pytest.raises(RemoteFailed):
            await opened.model(document(server.url)).embed(["a", SECRET])
