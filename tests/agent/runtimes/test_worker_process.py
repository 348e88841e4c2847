"""What a worker is: no network, no secrets, gone with the agent; and what the agent is without."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes.births import describe_exit, worker_environment
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.runtimes.worker import OOM_SCORE
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.models import double_and_total_onnx, sha256_of, smollm2_path
from exclave_testing.workers import X, alive, load_smollm2, until


@pytest.fixture
def double(tmp_path: Path) -> ModelSpec:
    path = double_and_total_onnx(tmp_path / "double.onnx")
    return ModelSpec("double", "onnx", path, sha256_of(path))


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as running:
        yield running


async def test_a_worker_has_no_network_no_secrets_and_the_file_mapped(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCLAVE_TEST_SECRET", "sesame")
    models = await load_smollm2(supervisor)
    assert models.models()["m"].network == "none"
    (pid,) = supervisor.workers().values()
    # The kernel denies even the same user a look into a worker; root may look.
    with contextlib.suppress(PermissionError):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"sesame" not in environment
        assert smollm2_path().name in Path(f"/proc/{pid}/maps").read_text()
        devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert all(line.split(":")[0].strip() == "lo" for line in devices)
        targets = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum(target.startswith("socket:") for target in targets) == 1
    await models.close()


async def test_when_memory_runs_out_the_kernel_ends_it_first_and_it_has_a_limit(
    supervisor: Supervisor, double: ModelSpec
) -> None:
    models = await supervisor.load([double])
    (pid,) = supervisor.workers().values()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == OOM_SCORE
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith("Max data size")
    )
    soft, hard, _ = line.removeprefix("Max data size").split()
    assert soft == hard
    (placed,) = supervisor.plan().models
    assert placed.ram_bytes < int(soft) < placed.ram_bytes + (4 << 30)
    await models.close()


def test_threads_are_those_of_a_shared_machine() -> None:
    script = """
import os
from exclave_agent.runtimes.worker import prepare
prepare()
print(*(os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")))
"""
    words = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout.split()
    assert words == ["passive", "1000", str(physical_cores())]


def test_only_listed_variables_reach_a_worker() -> None:
    given = {"PATH": "/bin", "OPENAI_API_KEY": "x", "EXCLAVE_HOME": "y", "LANG": "C"}
    assert worker_environment(given) == {"PATH": "/bin", "LANG": "C"}


def test_exits_in_words() -> None:
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(-11) == "was ended by SIGSEGV"
    assert describe_exit(-64).startswith("was ended by")


AGENT = """
import asyncio, json, resource, sys
from pathlib import Path
from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng

async def main():
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        await supervisor.load([ModelSpec("double", "onnx", Path(sys.argv[1]), "aa" * 32)])
        engines = [name for name in ("numpy", "onnxruntime", "llama_cpp") if name in sys.modules]
        print(json.dumps({"pid": list(supervisor.workers().values())[0], "engines": engines}),
              flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def agent(double: ModelSpec) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, object]]]:
    """A process of its own with a supervisor and one worker."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(double.path)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_a_worker_dies_with_the_agent(
    agent: tuple[subprocess.Popen[bytes], dict[str, object]],
) -> None:
    process, said = agent
    pid = said["pid"]
    assert isinstance(pid, int)
    assert alive(pid)
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "the worker outlives the agent"
        time.sleep(0.005)


def test_the_agents_process_loads_no_engine(
    agent: tuple[subprocess.Popen[bytes], dict[str, object]],
) -> None:
    assert agent[1]["engines"] == []


def test_it_works_on_uvloop(double: ModelSpec) -> None:
    async def main() -> None:
        async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
            models = await supervisor.load([double])
            assert await models.infer("double", [X])
            (pid,) = supervisor.workers().values()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: supervisor.crashes == 1)
            assert await models.infer("double", [X])
            await models.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
