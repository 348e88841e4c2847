"""Workers die, hang, lie and refuse; the agent lives on and says what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from exclave_agent.errors import ModelLoadFailed, Overloaded, Unavailable, WorkerCrashed
from exclave_agent.ports import (
    Delta,
    Finished,
    Generate,
    ModelSet,
    ModelSpec,
    Tensor,
)
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.process import refusal
from exclave_agent.runtimes.restart import LOOP, Crash, Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.gguf import crashing_gguf
from exclave_testing.models import double_and_total_onnx, sha256_of, smollm2_path
from exclave_testing.workers import X, alive, children, load_smollm2, story, until


@pytest.fixture
def double(tmp_path: Path) -> ModelSpec:
    path = double_and_total_onnx(tmp_path / "double.onnx")
    return ModelSpec("double", "onnx", path, sha256_of(path))


@pytest.fixture
async def crashes() -> list[Crash]:
    return []


@pytest.fixture
async def supervisor(crashes: list[Crash]) -> AsyncIterator[Supervisor]:
    timings = Timings(load=30, first_backoff=0.02, longest_backoff=0.1, drain=10)
    async with Supervisor(
        clock=SystemClock(), rng=SystemRng(), timings=timings, on_crash=crashes.append
    ) as running:
        yield running


# --- crashes ------------------------------------------------------------------------------


async def test_a_worker_killed_mid_stream_fails_that_answer_and_the_next_works(
    supervisor: Supervisor, crashes: list[Crash]
) -> None:
    models = await load_smollm2(supervisor)
    (pid,) = supervisor.workers().values()
    got: list[Delta | Finished] = []

    async def read_and_kill() -> None:
        async for event in models.generate(story()):
            got.append(event)
            if len(got) == 2:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerCrashed) as caught:
        await read_and_kill()
    assert caught.value.retry_after is not None
    assert all(isinstance(event, Delta) for event in got)
    again = [event async for event in models.generate(story(3))]
    assert isinstance(again[-1], Finished)
    assert [(one.model, one.reason) for one in crashes] == [("m", "was ended by SIGKILL")]
    assert supervisor.crashes == 1
    assert list(supervisor.workers().values()) != [pid]
    await models.close()


async def test_every_request_of_a_dead_worker_is_tried_again(
    supervisor: Supervisor, double: ModelSpec
) -> None:
    models = await supervisor.load([double])
    (pid,) = supervisor.workers().values()
    os.kill(pid, signal.SIGSTOP)
    calls = [asyncio.create_task(models.infer("double", [X])) for _ in range(20)]
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    results = await asyncio.gather(*calls)
    assert all(outputs[0].name == "y" for outputs in results)
    assert supervisor.crashes == 1
    await models.close()


async def test_a_crash_loop_is_counted_and_requests_are_refused_at_once(
    supervisor: Supervisor, double: ModelSpec, crashes: list[Crash]
) -> None:
    models = await supervisor.load([double])
    double.path.rename(double.path.with_suffix(".gone"))
    (pid,) = supervisor.workers().values()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(crashes) >= LOOP + 1)
    assert [one.in_a_row for one in crashes[: LOOP + 1]] == [1, 2, 3, 4]
    assert crashes[0].retry_in == 0
    assert 0 < crashes[1].retry_in <= 0.1
    with pytest.raises(WorkerCrashed) as caught:
        await models.infer("double", [X])
    assert caught.value.code == "worker_crash_loop"
    double.path.with_suffix(".gone").rename(double.path)
    await until(lambda: bool(supervisor.workers()))
    assert await models.infer("double", [X])
    await models.close()


async def test_a_worker_that_hangs_is_killed(double: ModelSpec, crashes: list[Crash]) -> None:
    timings = Timings(ping=0.02, hung=0.3, first_backoff=0.01)
    async with Supervisor(
        clock=SystemClock(), rng=SystemRng(), timings=timings, on_crash=crashes.append
    ) as supervisor:
        models = await supervisor.load([double])
        (pid,) = supervisor.workers().values()
        # Idle and answering pings it may live on for as long as it likes.
        await asyncio.sleep(0.6)
        assert not crashes
        os.kill(pid, signal.SIGSTOP)
        assert await asyncio.wait_for(models.infer("double", [X]), 10)
        assert len(crashes) == 1
        await models.close()


# --- loads that fail -----------------------------------------------------------------------


def truncated(path: Path) -> Path:
    """The first megabyte of the real model."""
    with smollm2_path().open("rb") as whole:
        path.write_bytes(whole.read(1 << 20))
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(bytes(range(256)) * 64)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("runtime", ["llama", "onnx"])
@pytest.mark.parametrize("make", [garbage, truncated, empty, crashing_gguf])
async def test_a_bad_file_fails_its_load_and_nothing_else(
    supervisor: Supervisor,
    double: ModelSpec,
    tmp_path: Path,
    make: Callable[[Path], Path],
    runtime: str,
) -> None:
    good = await supervisor.load([double])
    (pid,) = supervisor.workers().values()
    bad = ModelSpec("bad", runtime, make(tmp_path / "bad.bin"), "bb" * 32)
    with pytest.raises(ModelLoadFailed, match=r"^model bad: ") as caught:
        await supervisor.load([double, bad])
    assert len(caught.value.message) < 700
    assert list(supervisor.workers().values()) == [pid]
    assert await good.infer("double", [X])
    await good.close()


async def test_a_file_that_kills_the_loader_names_the_signal(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    bad = ModelSpec("bad", "llama", crashing_gguf(tmp_path / "c.gguf"), "bb" * 32)
    with pytest.raises(ModelLoadFailed, match="the worker was ended by SIG"):
        await supervisor.load([bad])


async def test_a_missing_file_an_unknown_runtime_and_a_doubled_name(
    supervisor: Supervisor, double: ModelSpec, tmp_path: Path
) -> None:
    for spec in (
        ModelSpec("m", "llama", tmp_path / "absent", "bb" * 32),
        ModelSpec("m", "onnx", tmp_path / "absent", "bb" * 32),
        ModelSpec("m", "tensorflow", double.path, "bb" * 32),
    ):
        with pytest.raises(ModelLoadFailed, match="model m:"):
            await supervisor.load([spec])
    with pytest.raises(ModelLoadFailed, match="twice"):
        await supervisor.load([double, double])
    assert not supervisor.workers()


def impostor(tmp_path: Path, script: str) -> str:
    """An executable that stands in for Python and gets the worker's arguments."""
    path = tmp_path / "impostor"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n")
    path.chmod(0o755)
    return str(path)


FD = "fd = next(int(one[5:]) for one in sys.argv if one.startswith('--fd='))\n"


def test_a_code_that_a_worker_makes_up_does_not_reach_the_record() -> None:
    made_up = refusal(frames.Failed(1, "the-patient-is-mabuse", "no"))
    assert isinstance(made_up, WorkerCrashed)
    assert made_up.code == "engine_failed"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("os.write(fd, b'\\xff' * 4096); time.sleep(60)", "broke the protocol"),
        ("os.write(fd, b'\\0\\0\\0\\x02\\x81\\xa1'); time.sleep(60)", "broke the protocol"),
        ("print('no such\\nlibrary', file=sys.stderr); sys.exit(3)", "status 3.*library"),
        ("os.close(fd); time.sleep(60)", "SIGKILL"),
        ("time.sleep(60)", "not loaded within 0.5 s"),
    ],
)
async def test_a_worker_that_lies_or_says_nothing_fails_the_load(
    tmp_path: Path, double: ModelSpec, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    timings = Timings(load=0.5 if "not loaded" in says else 30)
    async with Supervisor(clock=SystemClock(), rng=SystemRng(), timings=timings) as supervisor:
        monkeypatch.setattr(sys, "executable", impostor(tmp_path, FD + script))
        with pytest.raises(ModelLoadFailed, match=f"(?s){says}"):
            await supervisor.load([double])
        assert not supervisor.workers()


async def test_a_cancelled_load_leaves_no_worker(supervisor: Supervisor) -> None:
    loading = asyncio.create_task(load_smollm2(supervisor))
    await asyncio.sleep(0.05)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await until(lambda: not children())


# --- sharing and closing -------------------------------------------------------------------


async def test_sets_share_a_worker_and_the_last_one_ends_it(
    supervisor: Supervisor, double: ModelSpec
) -> None:
    other_parameters = ModelSpec("double", "onnx", double.path, double.sha256, {"max_batch": 4})
    first = await supervisor.load([double])
    (pid,) = supervisor.workers().values()
    second = await supervisor.load([double])
    assert list(supervisor.workers().values()) == [pid]
    third = await supervisor.load([other_parameters])
    assert len(children()) == 2
    await first.close()
    await first.close()
    assert await second.infer("double", [X])
    await second.close()
    await until(lambda: not alive(pid))
    assert await third.infer("double", [X])
    with pytest.raises(Unavailable):
        await second.infer("double", [X])
    await third.close()


async def test_leaving_the_supervisor_waits_for_answers_and_ends_workers() -> None:
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        models = await load_smollm2(supervisor)
        (pid,) = supervisor.workers().values()
        events = [asyncio.create_task(collect(models, story(12))) for _ in range(2)]
        await asyncio.sleep(0)
    for task in events:
        last = (await task)[-1]
        assert isinstance(last, Finished)
        assert last.completion_tokens == 12
    assert not alive(pid)


async def test_answers_that_outlast_the_drain_are_failed() -> None:
    timings = Timings(drain=0.1)
    async with Supervisor(clock=SystemClock(), rng=SystemRng(), timings=timings) as supervisor:
        models = await load_smollm2(supervisor)
        running = asyncio.create_task(collect(models, story(450)))
        await asyncio.sleep(0)
    with pytest.raises(WorkerCrashed):
        await running


async def collect(models: ModelSet, request: Generate) -> list[Delta | Finished]:
    return [event async for event in models.generate(request)]


async def test_an_error_of_the_caller_passes_unwrapped_and_ends_the_workers(
    double: ModelSpec,
) -> None:
    pids: list[int] = []

    async def fail_within() -> None:
        async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
            await supervisor.load([double])
            pids.extend(supervisor.workers().values())
            raise KeyError("the caller's")

    with pytest.raises(KeyError):
        await fail_within()
    assert len(pids) == 1
    assert not alive(pids[0])


async def test_cancelling_the_owner_ends_the_workers(double: ModelSpec) -> None:
    up: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def own() -> None:
        async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
            await supervisor.load([double])
            up.set_result(next(iter(supervisor.workers().values())))
            await asyncio.Event().wait()

    task = asyncio.create_task(own())
    pid = await up
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


async def test_a_reader_that_stops_reading_gets_the_text_in_one_piece(
    supervisor: Supervisor,
) -> None:
    models = await load_smollm2(supervisor)
    events: list[Delta | Finished] = []
    async for event in models.generate(story(20)):
        events.append(event)
        if len(events) == 1:
            # The worker finishes meanwhile; nothing but this one answer's text is held.
            await collect(models, story(30))
    assert len(events) == 3
    assert isinstance(events[2], Finished)
    assert events[2].completion_tokens == 20
    await models.close()


async def test_a_request_too_large_for_a_frame_is_a_bad_request(
    supervisor: Supervisor, double: ModelSpec
) -> None:
    models = await supervisor.load([double])
    rows = (64 << 20) // 16
    huge = Tensor("x", "FP32", (rows, 4), bytes(rows * 16))
    with pytest.raises(Exception, match="too large") as caught:
        await models.infer("double", [huge])
    assert not isinstance(caught.value, WorkerCrashed | Overloaded)
    assert await models.infer("double", [X])
    await models.close()
