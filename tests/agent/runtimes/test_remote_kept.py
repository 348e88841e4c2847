"""Connections that an endpoint keeps, and closes at the moment when they are used again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exclave_agent.errors import RemoteFailed
from exclave_agent.ports import Generate, Message, Sampling
from exclave_testing.endpoints import DONE, Opened, ask, count, document, piece, text_of

REQUEST = Generate("remote", Sampling(max_tokens=8), (Message("user", "hello"),))
BODY = b"".join((piece("", role="assistant"), piece("hel"), piece("lo", "stop"), count(), DONE))
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(BODY)
) + BODY


@dataclass
class Keeping:
    """Reads whole requests. Of each connection it answers as many as `answers` says, and closes it
    at the next one, unanswered, after `before`."""

    answers: list[int]
    before: bytes = b""
    served: list[list[bytes]] = field(default_factory=list)
    """The bodies that came over each connection."""
    together: asyncio.Barrier | None = None
    """Answers wait for each other."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies: list[bytes] = []
        self.served.append(bodies)
        left = self.answers.pop(0)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                if not left:
                    writer.write(self.before)
                    return
                left -= 1
                if self.together is not None:
                    await self.together.wait()
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            pass  # the client has closed it
        finally:
            writer.close()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path)
    yield made
    await made.runtime.close()


async def test_a_kept_connection_that_is_closed_costs_nobody_an_answer(opened: Opened) -> None:
    server = Keeping([1, 2])
    async with server.open() as url:
        model = opened.model(document(url))
        for _ in range(3):
            deltas, _ = await ask(model, REQUEST)
            assert text_of(deltas) == "hello"
        await opened.runtime.close()
    first, second = server.served
    assert len(first) == 2 and len(second) == 2
    assert len({*first, *second}) == 1, "what was lost is sent as it was"


async def test_several_that_are_closed(opened: Opened) -> None:
    server = Keeping([1, 1, 1, 1], together=asyncio.Barrier(3))
    async with server.open() as url:
        model = opened.model(document(url, max_concurrency=3))
        await asyncio.gather(*(ask(model, REQUEST) for _ in range(3)))
        server.together = None
        deltas, _ = await ask(model, REQUEST)
        assert text_of(deltas) == "hello"
        await opened.runtime.close()
    assert [len(each) for each in server.served] == [2, 2, 2, 1]


async def test_a_connection_of_its_own_is_asked_once(opened: Opened) -> None:
    server = Keeping([0, 0])
    async with server.open() as url:
        model = opened.model(document(url))
        with pytest.raises(RemoteFailed) as caught:
            await ask(model, REQUEST)
        await opened.runtime.close()
    assert caught.value.code == "remote_unreachable"
    assert [len(each) for each in server.served] == [1]


async def test_one_that_fails_after_a_kept_one_is_not_asked_again(opened: Opened) -> None:
    server = Keeping([1, 0, 0])
    async with server.open() as url:
        model = opened.model(document(url))
        await ask(model, REQUEST)
        with pytest.raises(RemoteFailed) as caught:
            await ask(model, REQUEST)
        await opened.runtime.close()
    assert caught.value.code == "remote_unreachable"
    assert [len(each) for each in server.served] == [2, 1]


async def test_an_answer_that_began_is_not_asked_for_again(opened: Opened) -> None:
    server = Keeping([1, 1], before=ANSWER[: len(ANSWER) // 2])
    async with server.open() as url:
        model = opened.model(document(url))
        await ask(model, REQUEST)
        with pytest.raises(RemoteFailed) as caught:
            await ask(model, REQUEST)
        await opened.runtime.close()
    assert caught.value.code == "remote_failed"
    assert [len(each) for each in server.served] == [2]
