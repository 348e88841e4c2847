"""A worker that somebody else starts: it gets an open model and a socket, and sees no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from exclave_agent.errors import ModelLoadFailed
from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes import births
from exclave_agent.runtimes.frames import MAX_ADAPTERS
from exclave_agent.runtimes.service_worker import receive_files
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.activation import WorkerSocket
from exclave_testing.models import double_and_total_onnx, sha256_of
from exclave_testing.workers import X, load_smollm2, story, until


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[WorkerSocket]:
    made = WorkerSocket(tmp_path / "worker.sock")
    yield made
    made.close()


@pytest.fixture
async def supervisor(workers: WorkerSocket) -> AsyncIterator[Supervisor]:
    birth = births.service(workers.path)
    async with Supervisor(clock=SystemClock(), rng=SystemRng(), birth=birth) as running:
        yield running


@pytest.fixture
def double(tmp_path: Path) -> ModelSpec:
    path = double_and_total_onnx(tmp_path / "double.onnx")
    return ModelSpec("double", "onnx", path, sha256_of(path))


async def test_it_serves_a_model_that_it_was_handed(
    supervisor: Supervisor, workers: WorkerSocket, double: ModelSpec
) -> None:
    models = await supervisor.load([double])
    assert models.models()["double"].network == "none"
    outputs = await models.infer("double", [X])
    assert outputs[0].name == "y"
    assert supervisor.workers() == {}, "its pid is the service manager's to know"
    await models.close()
    await until(lambda: workers.workers[0].poll() is not None)


@pytest.mark.model
async def test_a_language_model_maps_the_file_that_it_was_handed(supervisor: Supervisor) -> None:
    models = await load_smollm2(supervisor)
    events = [event async for event in models.generate(story(max_tokens=4))]
    assert events
    await models.close()


async def test_it_is_started_again_when_it_dies(
    supervisor: Supervisor, workers: WorkerSocket, double: ModelSpec
) -> None:
    models = await supervisor.load([double])
    workers.workers[0].send_signal(signal.SIGKILL)
    await until(lambda: len(workers.workers) == 2)
    assert (await models.infer("double", [X]))[0].name == "y"
    assert supervisor.crashes == 1
    await models.close()


async def test_a_file_that_is_no_model_is_refused_in_its_own_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelLoadFailed, match="model bad"):
        await supervisor.load([ModelSpec("bad", "onnx", tmp_path / "bad.onnx", "aa" * 32)])


async def test_a_socket_where_nobody_listens_is_named(tmp_path: Path, double: ModelSpec) -> None:
    birth = births.service(tmp_path / "nobody.sock")
    async with Supervisor(clock=SystemClock(), rng=SystemRng(), birth=birth) as running:
        with pytest.raises(ModelLoadFailed, match="cannot be started: No such file"):
            await running.load([double])


@pytest.mark.parametrize("case", ["nothing", "no descriptor", "too many", "other byte"])
def test_a_peer_that_is_no_agent_is_refused(case: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as file:
        if case == "no descriptor":
            ours.send(births.HANDED_OVER)
        elif case == "too many":
            socket.send_fds(ours, [births.HANDED_OVER], [file.fileno()] * (MAX_ADAPTERS + 2))
        elif case == "other byte":
            socket.send_fds(ours, [b"x"], [file.fileno()])
        else:
            ours.close()
        with pytest.raises(SystemExit, match="first byte"):
            receive_files(theirs)


def test_adapters_come_with_their_model(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    paths = [tmp_path / name for name in ("model", "first", "second")]
    for path in paths:
        path.write_text(path.name)
    with ours, theirs, contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        socket.send_fds(ours, [births.HANDED_OVER], [file.fileno() for file in files])
        received = [stack.enter_context(open(fd, "rb")) for fd in receive_files(theirs)]
        assert [file.read() for file in received] == [b"model", b"first", b"second"]
