"""What a worker is held to: room for all that it was promised, and no way to lift the limit."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path
from typing import cast

import pytest

from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.births import Body, Child
from exclave_agent.runtimes.footprint import Footprint
from exclave_agent.runtimes.means import HEADROOM
from exclave_agent.runtimes.memory import Need
from exclave_agent.runtimes.memory_keeper import Keeper, MemorySettings
from exclave_agent.runtimes.memory_machine import Held
from exclave_agent.runtimes.placement import arrange
from exclave_agent.runtimes.process import Worker
from exclave_testing.memory import MIB, FakeMachine

GIB = 1 << 30


class Machine(FakeMachine):
    """Every process holds the same."""

    holds = Held(300 * MIB, 200 * MIB, 500 * MIB)

    def held(self, pid: int) -> Held:
        return self.holds


class Limited:
    """A worker, as far as its limits go."""

    pid = 1

    def __init__(self) -> None:
        self.limits: list[int] = []

    def limit_data(self, size: int) -> None:
        self.limits.append(size)


def footprint(folder: Path, budget: int) -> Footprint:
    path = folder / "m"
    path.write_bytes(bytes(1 << 20))
    (wanted,), _ = arrange([ModelSpec("m", "llama", path, "aa" * 32)])
    return Footprint(wanted, Keeper(MemorySettings(ram=budget), Machine(ram=100_000)))


def loaded(ram: int = 0, vram: int = 0) -> frames.Loaded:
    return frames.Loaded(["chat"], 1, [], [], "cpu", "none", [], ram_bytes=ram, vram_bytes=vram)


def measured(print_: Footprint, said: frames.Loaded, *, first: bool) -> list[int]:
    worker = Limited()
    print_.measure(cast(Worker, worker), said, first=first)
    return worker.limits


@pytest.mark.parametrize("promised", [0, 1, 4, 16])
def test_stores_that_are_still_empty_fit_its_limit(tmp_path: Path, promised: int) -> None:
    """prefix_mib and park_mib are in what it says it may take, and not yet in what it holds."""
    weights, print_ = 300 * MIB, footprint(tmp_path, 64 * GIB)
    (limit,) = measured(print_, loaded(weights + promised * GIB), first=True)
    assert limit >= Machine.holds.data + promised * GIB
    assert limit >= Machine.holds.data + HEADROOM


def test_a_later_load_that_says_it_took_the_world_is_not_believed(tmp_path: Path) -> None:
    print_ = footprint(tmp_path, 2 * GIB)
    measured(print_, loaded((1 << 53) - 1), first=True)
    assert print_.need.ram == (1 << 53) - 1, "which refuses the release"
    (limit,) = measured(print_, loaded((1 << 53) - 1), first=False)
    assert print_.need == Need(2 * GIB, 0)
    assert limit < 5 * GIB


def test_more_resident_than_planned_changes_the_plan(tmp_path: Path) -> None:
    print_ = footprint(tmp_path, 2 * GIB)
    measured(print_, loaded(100 * MIB), first=True)
    assert print_.need.ram == Machine.holds.resident
    assert not print_.outgrown()
    print_.held = Held(GIB, GIB, GIB)
    assert print_.outgrown()
    assert print_.need.ram == GIB


async def test_a_limit_holds_for_a_worker_that_would_lift_it() -> None:
    script = """
import resource, sys
sys.stdin.readline()
soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
print(resource.getrlimit(resource.RLIMIT_DATA)[0])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    body: Body = Child(process)
    body.limit_data(8 * GIB)
    body.limit_data(4 * GIB)
    body.limit_data(6 * GIB)
    told, _ = await process.communicate(b"\n")
    assert int(told) == 4 * GIB
    await body.ended()
    body.limit_data(GIB)  # gone: nothing to limit
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != GIB
