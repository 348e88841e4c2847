"""Models that do not fit together: proven at activation, loaded on demand, evicted, kept warm."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exclave_agent.errors import DeadlineExceeded, ModelLoadFailed, NoMemory
from exclave_agent.ports import Delta, Generate, ModelInfo, ModelSet, ModelSpec, Sampling
from exclave_agent.runtimes.births import program
from exclave_agent.runtimes.memory_keeper import MemorySettings
from exclave_agent.runtimes.restart import Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.fake_worker import FAKE_WORKER
from exclave_testing.memory import MIB, FakeMachine
from exclave_testing.workers import until

BUDGET = 1000
"""MiB; a fake worker is estimated at 130 to 230, and says of itself what `spec` is told."""


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor(
        clock=SystemClock(),
        rng=SystemRng(),
        timings=Timings(load=30, room=0.3, drain=10),
        birth=program(*FAKE_WORKER),
        memory=MemorySettings(ram=BUDGET * MIB),
        machine=FakeMachine(ram=100_000),
    ) as running:
        yield running


def spec(folder: Path, name: str, ram: int, **parameters: int | str | bool) -> ModelSpec:
    path = folder / name
    path.write_bytes(name.encode())
    return ModelSpec(
        name,
        "llama",
        path,
        name.ljust(64, "0"),
        {"ram_bytes": ram * MIB, "n_ctx": 64, "journal": str(folder / "journal"), **parameters},
    )


async def ask(
    models: ModelSet, model: str, prompt: str = "hi", timeout: float | None = None
) -> str:
    text = ""
    request = Generate(model, Sampling(max_tokens=4), prompt=prompt, timeout=timeout)
    async for event in models.generate(request):
        if isinstance(event, Delta):
            text += event.text
    return text


def states(supervisor: Supervisor) -> dict[str, str]:
    return {one.name: one.state for one in supervisor.plan().models}


async def test_those_that_fit_stay_loaded(supervisor: Supervisor, tmp_path: Path) -> None:
    models = await supervisor.load([spec(tmp_path, "a", 400), spec(tmp_path, "b", 400)])
    assert states(supervisor) == {"a": "loaded", "b": "loaded"}
    plan = supervisor.plan()
    assert (plan.ram_budget, plan.vram_budget) == (BUDGET * MIB, 0)
    assert [one.ram_bytes for one in plan.models] == [400 * MIB, 400 * MIB]
    assert all(one.reload_seconds > 0 for one in plan.models)
    await models.close()
    assert supervisor.plan().models == ()


async def test_those_that_do_not_are_loaded_by_turns_and_on_demand(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    specs = [spec(tmp_path, name, 600) for name in ("a", "b", "c")]
    models = await supervisor.load(specs)
    assert set(models.models()) == {"a", "b", "c"}
    await until(lambda: sorted(states(supervisor).values()) == ["evicted", "evicted", "loaded"])
    for name in ("a", "b", "c", "a"):
        assert await ask(models, name) == "ok"
        assert states(supervisor)[name] == "loaded"
        assert len(supervisor.workers()) == 1
    assert supervisor.crashes == 0, "an eviction is no crash"
    await models.close()


async def test_a_bad_file_refuses_the_release_even_where_not_all_fit(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    missing = ModelSpec("gone", "tensorflow", tmp_path / "none", "ee" * 32, {"ram_bytes": -1})
    with pytest.raises(ModelLoadFailed, match="model gone"):
        await supervisor.load([spec(tmp_path, "a", 600), spec(tmp_path, "b", 600), missing])
    await until(lambda: not supervisor.workers())


async def test_one_that_is_larger_than_the_budget_is_refused_with_both_numbers(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model a: .*1200 MiB.*1000 MiB.*ram_budget_mib"):
        await supervisor.load([spec(tmp_path, "a", 1200)])
    huge = spec(tmp_path, "b", 1)
    with huge.path.open("ab") as file:
        file.truncate(2000 * MIB)  # takes no room on disk
    with pytest.raises(ModelLoadFailed, match=r"model b: .*2128 MiB.*1000 MiB"):
        await supervisor.load([huge])
    models = await supervisor.load([spec(tmp_path, "c", 900)])
    await models.close()


async def test_a_gpu_has_a_budget_of_its_own(tmp_path: Path) -> None:
    async with Supervisor(
        clock=SystemClock(),
        rng=SystemRng(),
        birth=program(*FAKE_WORKER),
        memory=MemorySettings(ram=BUDGET * MIB, vram=100 * MIB),
        machine=FakeMachine(ram=100_000, vram=500),
    ) as supervisor:
        with pytest.raises(ModelLoadFailed, match=r"120 MiB of GPU memory.*100 MiB.*vram_budget"):
            await supervisor.load([spec(tmp_path, "a", 10, vram_bytes=120 * MIB)])
        two = [spec(tmp_path, name, 10, vram_bytes=60 * MIB) for name in ("b", "c")]
        models = await supervisor.load(two)
        await until(lambda: sorted(states(supervisor).values()) == ["evicted", "loaded"])
        assert await ask(models, "b") == "ok"
        assert {one.device for one in supervisor.plan().models} == {"cuda"}
        await models.close()


async def test_a_warm_one_stays_while_cold_ones_take_turns(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    warm = spec(tmp_path, "warm", 400, keep_warm=True)
    models = await supervisor.load([warm, spec(tmp_path, "a", 500), spec(tmp_path, "b", 500)])
    for name in ("a", "b", "a", "b"):
        assert await ask(models, name) == "ok"
        assert states(supervisor)["warm"] == "loaded"
    assert {one.name for one in supervisor.plan().models if one.keep_warm} == {"warm"}
    await models.close()


async def test_one_in_use_is_never_evicted_and_the_other_is_told_to_come_again(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    models = await supervisor.load([spec(tmp_path, "a", 600), spec(tmp_path, "b", 600)])
    assert await ask(models, "a") == "ok"
    busy = asyncio.create_task(ask(models, "a", "sleep 1500"))
    await until(lambda: "sleep 1500" in (tmp_path / "journal").read_text())
    with pytest.raises(NoMemory) as caught:
        await ask(models, "b")
    assert caught.value.retry_after is not None
    with pytest.raises(DeadlineExceeded):
        await ask(models, "b", timeout=0.05)
    assert await busy == "ok"
    assert await ask(models, "b") == "ok"
    assert supervisor.crashes == 0
    await models.close()


async def test_requests_for_two_models_by_turns_are_all_answered(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    models = await supervisor.load([spec(tmp_path, "a", 600), spec(tmp_path, "b", 600)])
    asked = [asyncio.create_task(ask(models, "ab"[n % 2], f"sleep {n}")) for n in range(12)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    # Whoever found the other in use for longer than `Timings.room` may come again, no more.
    assert set(map(str, answers)) <= {"ok", str(NoMemory(_NO_ROOM))}
    assert answers.count("ok") >= 6
    await models.close()


_NO_ROOM = "the model is not loaded, and those in use leave no room for it"


async def test_a_release_that_replaces_another_finds_room(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    old = await supervisor.load([spec(tmp_path, "a", 900)])
    new = await supervisor.load([spec(tmp_path, "b", 900)])
    assert await ask(old, "a") == "ok"
    assert await ask(new, "b") == "ok"
    await old.close()
    assert states(supervisor) == {"b": "loaded"}
    await new.close()


async def test_a_release_replaces_one_whose_model_is_never_idle(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    old = await supervisor.load([spec(tmp_path, "a", 900)])
    done = asyncio.Event()
    answers: list[str] = []

    async def keep_asking(first: int) -> None:
        await asyncio.sleep(first / 1000)
        while not done.is_set():
            answers.append(await ask(old, "a", f"sleep {60 + len(answers)}"))

    async with asyncio.TaskGroup() as group:
        for first in (0, 20, 40):
            group.create_task(keep_asking(first))
        await until(lambda: len(answers) > 3)
        new = await supervisor.load([spec(tmp_path, "b", 900)])
        before = len(answers)
        await until(lambda: len(answers) > before + 3)
        done.set()
    assert set(answers) == {"ok"}, "whoever came meanwhile waited, and was answered"
    await old.close()
    assert await ask(new, "b") == "ok"
    await new.close()


async def test_a_crash_of_long_ago_does_not_shorten_the_wait_for_a_load(tmp_path: Path) -> None:
    async with Supervisor(
        clock=SystemClock(),
        rng=SystemRng(),
        timings=Timings(load=30, room=5, drain=10, restart_wait=0.3),
        birth=program(*FAKE_WORKER),
        memory=MemorySettings(ram=BUDGET * MIB),
        machine=FakeMachine(ram=100_000),
    ) as supervisor:
        slow = spec(tmp_path, "a", 600, load_ms=800)
        models = await supervisor.load([slow, spec(tmp_path, "b", 600)])
        assert await ask(models, "a") == "ok"
        os.kill(supervisor.workers()[slow.sha256], signal.SIGKILL)
        await until(lambda: supervisor.crashes == 1)
        await until(lambda: states(supervisor)["a"] == "loaded")
        assert await ask(models, "b") == "ok"
        assert states(supervisor)["a"] == "evicted"
        assert await ask(models, "a") == "ok", "its load takes longer than a restart may"
        await models.close()


async def test_closing_while_a_model_is_evicted_leaves_nothing(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    models = await supervisor.load([spec(tmp_path, "a", 600), spec(tmp_path, "b", 600)])
    await models.close()
    await until(lambda: not supervisor.workers())


async def test_degraded_is_told(supervisor: Supervisor, tmp_path: Path) -> None:
    models = await supervisor.load([spec(tmp_path, "a", 10, degraded="no GPU is there")])
    info: ModelInfo = models.models()["a"]
    assert info.degraded == "no GPU is there"
    assert [one.degraded for one in supervisor.plan().models] == ["no GPU is there"]
    await models.close()


# --- adapters ------------------------------------------------------------------------------------


def adapter(folder: Path, name: str, base: str, **parameters: str) -> ModelSpec:
    path = folder / name
    path.write_bytes(name.encode())
    return ModelSpec(name, "lora", path, name.ljust(64, "f"), {"base": base, **parameters})


async def test_adapters_share_their_bases_worker_and_requests_name_them(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    models = await supervisor.load(
        [adapter(tmp_path, "polite", "a", scale="0.5"), spec(tmp_path, "a", 100)]
    )
    info = models.models()["polite"]
    assert (info.runtime, info.base, info.sha256) == ("lora", "a", "polite".ljust(64, "f"))
    assert len(supervisor.workers()) == 1
    assert await ask(models, "polite", "adapted") == "ok"
    assert await ask(models, "a", "plain") == "ok"
    journal = [line.split("\t")[:2] for line in (tmp_path / "journal").read_text().splitlines()]
    assert journal == [["adapted", "polite".ljust(64, "f")], ["plain", ""]]
    by_name = {one.name: one for one in supervisor.plan().models}
    assert by_name["polite"].ram_bytes == 0, "it lies in its base's worker"
    # Without the adapter it is another worker; with another scale as well.
    plain = await supervisor.load([spec(tmp_path, "a", 100)])
    stronger = await supervisor.load([spec(tmp_path, "a", 100), adapter(tmp_path, "polite", "a")])
    assert len({one.sha256 for one in supervisor.plan().models}) == 2
    assert sum(one.name == "a" for one in supervisor.plan().models) == 3
    for each in (models, plain, stronger):
        await each.close()


async def test_an_adapter_without_its_base_is_refused_by_name(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model polite: base: .*named nobody"):
        await supervisor.load([spec(tmp_path, "a", 100), adapter(tmp_path, "polite", "nobody")])
    assert not supervisor.workers()


async def test_a_remote_model_needs_a_remote_runtime(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    remote = ModelSpec("far", "remote", tmp_path / "far", "dd" * 32)
    with pytest.raises(ModelLoadFailed, match="model far"):
        await supervisor.load([remote])
