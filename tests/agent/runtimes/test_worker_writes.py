"""What goes over a worker's socket together: one wake-up for many frames, in both directions."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from exclave_agent.errors import BadRequest
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.process import Worker
from exclave_agent.runtimes.turns import Turns
from exclave_agent.runtimes.worker import Connection


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


def connected() -> tuple[Worker, Transport]:
    worker, transport = Worker(), Transport()
    worker.connection_made(cast("asyncio.BaseTransport", transport))
    return worker, transport


def read(data: bytes) -> list[frames.ToWorker]:
    return [frames.decode_for_worker(body) for body in frames.Splitter().feed(data)]


async def test_frames_of_one_turn_of_the_loop_are_one_write_in_their_order() -> None:
    worker, transport = connected()
    sent = [frames.Ping(1), frames.Cancel(2), frames.Ping(3)]
    for frame in sent:
        worker.send(frame)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert [read(write) for write in transport.writes] == [sent]
    worker.send(frames.Ping(4))
    await asyncio.sleep(0)
    assert read(transport.writes[1]) == [frames.Ping(4)]


async def test_nothing_is_written_to_a_worker_that_has_gone() -> None:
    worker, transport = connected()
    worker.send(frames.Ping(1))
    transport.closing = True
    await asyncio.sleep(0)
    assert transport.writes == []


async def test_a_frame_that_is_too_large_is_refused_and_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, transport = connected()
    monkeypatch.setattr(frames, "MAX_FRAME", 100)
    worker.send(frames.Ping(1))
    with pytest.raises(BadRequest, match="too large"):
        worker.send(frames.Embed(2, ["x" * 200]))
    await asyncio.sleep(0)
    assert [read(write) for write in transport.writes] == [[frames.Ping(1)]]


def test_a_workers_answers_are_one_write() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        connection = Connection(theirs)
        answers = [frames.EmbedResult(n, [], n) for n in range(3)]
        connection.send(*answers)
        connection.send(answers[0])
        got = [
            [frames.decode_for_agent(body) for body in frames.Splitter().feed(ours.recv(4096))]
            for _ in range(2)
        ]
    assert got == [answers, answers[:1]]


async def test_a_turn_is_had_at_once_only_while_nobody_is_or_wants_to_be_alone() -> None:
    turns = Turns()
    assert turns.at_once()
    assert turns.at_once()

    async def alone() -> None:
        async with turns.turn(alone=True):
            assert not turns.at_once()

    waiting = asyncio.create_task(alone())
    await asyncio.sleep(0)
    assert not turns.at_once(), "whoever wants to be alone goes before newcomers"
    turns.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    turns.leave()
    await waiting
    assert turns.at_once()
