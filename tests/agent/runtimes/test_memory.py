"""The memory plan: never over the budget, never somebody in use, the cheapest to reload first."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.runtimes.memory import (
    UNLIMITED,
    Need,
    Resident,
    evictions,
    total,
    worth,
)
from exclave_agent.runtimes.memory_keeper import RAM_SHARE, Keeper, MemorySettings
from exclave_agent.runtimes.memory_machine import NOTHING, LinuxMachine
from exclave_testing.memory import FakeMachine

MIB = 1 << 20


def resident(
    name: str,
    ram: int,
    *,
    vram: int = 0,
    in_use: bool = False,
    warm: bool = False,
    idle: float = 60,
    reload: float = 1,
) -> Resident:
    """Sizes in MiB."""
    return Resident(name, Need(ram * MIB, vram * MIB), in_use, warm, idle, reload)


def names(plan: list[Resident] | None) -> list[object] | None:
    return None if plan is None else [one.name for one in plan]


BUDGET = Need(100 * MIB, UNLIMITED)


def test_what_fits_evicts_nobody() -> None:
    assert evictions(BUDGET, [resident("a", 60)], Need(40 * MIB)) == []


def test_the_one_that_is_cheapest_to_have_back_goes_first() -> None:
    held = [
        resident("slow to load", 40, reload=30),
        resident("quick to load", 40, reload=1),
    ]
    assert names(evictions(BUDGET, held, Need(30 * MIB))) == ["quick to load"]


def test_of_equal_ones_the_one_idle_longest_goes() -> None:
    held = [resident("just asked", 40, idle=1), resident("long idle", 40, idle=600)]
    assert names(evictions(BUDGET, held, Need(30 * MIB))) == ["long idle"]


def test_a_large_one_spares_the_small_ones_that_would_not_have_been_enough() -> None:
    held = [resident("small", 10, reload=0.01), resident("large", 80, reload=50)]
    assert names(evictions(BUDGET, held, Need(60 * MIB))) == ["large"]


def test_those_in_use_stay_and_a_warm_one_goes_last() -> None:
    held = [
        resident("busy", 50, in_use=True),
        resident("warm", 25, warm=True, reload=0.01),
        resident("cold", 25, reload=100),
    ]
    assert names(evictions(BUDGET, held, Need(25 * MIB))) == ["cold"]
    assert evictions(BUDGET, held, Need(60 * MIB)) is None
    assert set(names(evictions(BUDGET, held, Need(50 * MIB))) or []) == {"warm", "cold"}


def test_only_what_frees_the_memory_that_lacks_goes() -> None:
    budget = Need(1000 * MIB, 100 * MIB)
    held = [resident("on the cpu", 500, reload=0), resident("on the gpu", 100, vram=80)]
    assert names(evictions(budget, held, Need(0, 50 * MIB))) == ["on the gpu"]


def test_what_is_promised_to_another_is_not_free() -> None:
    assert evictions(BUDGET, [], Need(60 * MIB), promised=Need(50 * MIB)) is None


residents = st.builds(
    Resident,
    st.uuids(),
    st.builds(Need, st.integers(0, 100), st.integers(0, 100)),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1e6),
    st.floats(0, 1e3),
)


@given(
    st.builds(Need, st.integers(0, 300), st.integers(0, 300)),
    st.lists(residents, max_size=8),
    st.builds(Need, st.integers(0, 150), st.integers(0, 150)),
)
def test_plans_keep_every_promise(budget: Need, held: list[Resident], need: Need) -> None:
    plan = evictions(budget, held, need)
    idle = [one for one in held if not one.in_use]
    busy = total(one.need for one in held if one.in_use)
    if plan is None:
        assert not (busy + need).fits(budget), "it would have fitted with all idle ones gone"
        return
    staying = [one for one in held if one not in plan]
    assert (total(one.need for one in staying) + need).fits(budget)
    assert not any(one.in_use for one in plan)
    for one in plan:
        rest = total(other.need for other in staying) + need
        assert not (rest + one.need).fits(budget), "it went for nothing"
    if any(one.warm for one in plan):
        warm = total(one.need for one in idle if one.warm)
        assert not (busy + warm + need).fits(budget), "a warm one went before the cold ones"


def test_worth_falls_with_idleness_and_size_and_rises_with_the_reload() -> None:
    one = resident("a", 100, idle=10, reload=10)
    assert worth(resident("b", 100, idle=1000, reload=10)) < worth(one)
    assert worth(resident("c", 200, idle=10, reload=10)) < worth(one)
    assert worth(resident("d", 100, idle=10, reload=20)) > worth(one)


# --- the keeper ----------------------------------------------------------------------------------


class FakeTenant:
    """A model that goes when told, once `gone` is called."""

    def __init__(self, name: str, ram: int, *, in_use: bool = False) -> None:
        self.need = Need(ram * MIB)
        self.name, self.in_use, self.evicted = name, in_use, False
        self.private_bytes = ram * MIB
        self.making_way = self.loading = False

    def resident(self) -> Resident:
        return Resident(self.name, self.need, self.in_use, False, 10, 1)

    def evict(self) -> None:
        assert not self.in_use
        self.evicted = True

    def make_way(self) -> None:
        self.making_way = True

    def stay(self) -> None:
        self.making_way = False


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_room_is_taken_only_when_the_evicted_process_is_gone() -> None:
    keeper = Keeper(MemorySettings(ram=100 * MIB), FakeMachine())
    first, second = FakeTenant("first", 80), FakeTenant("second", 60)
    await keeper.enter(first)
    entering = asyncio.create_task(keeper.enter(second))
    await settle()
    assert first.evicted
    assert not entering.done()
    keeper.leave(first)
    await entering


async def test_one_in_use_is_waited_for_and_a_cancelled_wait_promises_nothing() -> None:
    keeper = Keeper(MemorySettings(ram=100 * MIB), FakeMachine())
    busy, waiting, small = (
        FakeTenant("busy", 80, in_use=True),
        FakeTenant("waiting", 60),
        FakeTenant("small", 20),
    )
    await keeper.enter(busy)
    entering = asyncio.create_task(keeper.enter(waiting))
    await settle()
    assert not busy.evicted
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    await asyncio.wait_for(keeper.enter(small), 5)
    busy.in_use = False
    keeper.changed()
    await settle()
    assert not busy.evicted


async def test_whoever_insists_has_those_in_use_make_way_and_no_more_than_needed() -> None:
    keeper = Keeper(MemorySettings(ram=100 * MIB), FakeMachine())
    busy = [FakeTenant("small", 20, in_use=True), FakeTenant("large", 70, in_use=True)]
    for one in busy:
        await keeper.enter(one)
    new = FakeTenant("new", 60)
    entering = asyncio.create_task(keeper.enter(new, insist=True))
    await settle()
    assert [one.making_way for one in busy] == [False, True]
    busy[1].in_use = False
    keeper.changed()
    await settle()
    assert busy[1].evicted
    keeper.leave(busy[1])
    await asyncio.wait_for(entering, 5)
    # Who gives up waiting leaves nobody behind who still makes way.
    other = asyncio.create_task(keeper.enter(FakeTenant("other", 90), insist=True))
    await settle()
    assert busy[0].making_way
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert not busy[0].making_way


async def test_two_that_wait_share_what_becomes_free() -> None:
    keeper = Keeper(MemorySettings(ram=100 * MIB), FakeMachine())
    old = FakeTenant("old", 90)
    await keeper.enter(old)
    new = [FakeTenant("a", 50), FakeTenant("b", 50)]
    entering = [asyncio.create_task(keeper.enter(one)) for one in new]
    await settle()
    assert old.evicted
    keeper.leave(old)
    await asyncio.gather(*entering)


async def test_a_model_that_grew_sends_idle_ones_away() -> None:
    keeper = Keeper(MemorySettings(ram=100 * MIB), FakeMachine())
    grown, idle = FakeTenant("grown", 50, in_use=True), FakeTenant("idle", 40)
    await keeper.enter(grown)
    await keeper.enter(idle)
    keeper.settle()
    assert not idle.evicted
    grown.need = Need(70 * MIB)
    keeper.settle()
    assert idle.evicted


async def test_memory_that_others_took_meanwhile_is_not_taken_from_them_by_swapping() -> None:
    machine = FakeMachine(ram=1000)
    keeper = Keeper(MemorySettings(), machine)
    assert keeper.budget.ram == round(1000 * MIB * RAM_SHARE)
    await keeper.enter(FakeTenant("first", 300, in_use=True))
    machine.ram = 100  # somebody else's program has the rest
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await keeper.enter(FakeTenant("second", 300))
    machine.ram = 700
    await keeper.enter(FakeTenant("third", 300))


def test_budgets_of_settings_are_mib_and_zero_is_automatic() -> None:
    assert MemorySettings.of_mib(0, 0) == MemorySettings(None, None)
    assert MemorySettings.of_mib(100, 1) == MemorySettings(100 * MIB, MIB)
    keeper = Keeper(MemorySettings(), FakeMachine(ram=100))
    assert keeper.budget.vram == UNLIMITED
    assert not keeper.has_gpu
    assert Keeper(MemorySettings(), FakeMachine(vram=100)).budget.vram == 90 * MIB


# --- the machine ---------------------------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_tightest_cgroup_counts_and_clean_file_pages_are_free(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b"
    root = tree(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
            "proc/self/cgroup": "0::/a/b\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "1\n",
            f"{group}/memory.stat": "file 1\n",
            "sys/fs/cgroup/a/memory.max": f"{500 * MIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{450 * MIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"inactive_file {100 * MIB}\nactive_file {50 * MIB}\n",
        },
    )
    assert LinuxMachine(root=root).ram_left() == 200 * MIB
    # Workers that are services of their own have limits of their own.
    assert LinuxMachine(root=root, in_our_cgroup=False).ram_left() == 8_000_000 * 1024


def test_a_cgroup_is_full_where_it_would_be_swapped(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a"
    files = {
        "proc/meminfo": "MemAvailable: 8000000 kB\n",
        "proc/self/cgroup": "0::/a\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.high": f"{300 * MIB}\n",
        f"{group}/memory.current": f"{100 * MIB}\n",
        f"{group}/memory.stat": "file 1\n",
    }
    assert LinuxMachine(root=tree(tmp_path, files)).ram_left() == 200 * MIB


def test_without_cgroups_what_is_available_counts(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemAvailable: 1000 kB\n"})
    assert LinuxMachine(root=root).ram_left() == 1000 * 1024


def test_where_proc_is_hidden_the_memory_nodes_tell(tmp_path: Path) -> None:
    """As in the packaged service, whose /proc shows processes alone."""
    text = (
        "Node {0} MemFree: 1000 kB\nNode {0} Active(file): 300 kB\nNode {0} SReclaimable: 100 kB\n"
    )
    folder = "sys/devices/system/node"
    files = {f"{folder}/node{at}/meminfo": text.format(at) for at in (0, 1)}
    assert LinuxMachine(root=tree(tmp_path, files)).ram_left() == 2400 * 1024


def test_where_nothing_is_told_what_is_free_counts(tmp_path: Path) -> None:
    assert LinuxMachine(root=tmp_path).ram_left() > MIB


def test_what_a_process_holds_and_one_that_has_gone(tmp_path: Path) -> None:
    held = LinuxMachine().held(os.getpid())
    assert held.resident > held.private > 0
    assert held.data > MIB
    assert LinuxMachine(root=tmp_path).held(1) is NOTHING


def test_amd_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    device = "sys/class/drm/card0/device"
    root = tree(
        tmp_path,
        {f"{device}/mem_info_vram_total": "1000\n", f"{device}/mem_info_vram_used": "400\n"},
    )
    assert LinuxMachine(root=root).vram_left() in (600, LinuxMachine().vram_left())
