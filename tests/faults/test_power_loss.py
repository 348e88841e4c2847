"""Power loss: writes that were not synced are dropped or torn; what left is on record all the same.

`make faults` looks at thousands of cuts (EXCLAVE_POWER_CUTS).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_testing import power
from exclave_testing.homes import Home, execute, state, vault
from exclave_testing.promised import kept

TESTS = Path(__file__).parents[1]
CUTS = int(os.environ.get("EXCLAVE_POWER_CUTS", "150"))
SEED = int(os.environ.get("EXCLAVE_KILL_SEED", "20261126"))
PROCESS = """
import asyncio, os, sys
from pathlib import Path
from exclave_testing.decider import run
from exclave_testing.power import note
async def main():
    await run(Path(sys.argv[1]), int(sys.argv[2]), note)
    os._exit(0)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[power.Op]]:
    """A home, and all that a process did to its files afterwards."""
    folder = tmp_path_factory.mktemp("power")
    journal, home = folder / "journal", folder / "home"
    environment = power.environment(folder, journal)
    if environment is None:
        pytest.skip("no C compiler: what a process writes cannot be recorded")

    async def first() -> None:
        async with Home(home) as made:
            await made.boot()

    asyncio.run(first())
    before = folder / "before"
    shutil.copytree(home, before)
    subprocess.run(
        [sys.executable, "-c", PROCESS, str(home), str(SEED)],
        env=environment | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        check=True,
        timeout=100,
    )
    return before, power.ops(journal)


def test_what_was_recorded_is_what_happened(
    recorded: tuple[Path, list[power.Op]], tmp_path: Path
) -> None:
    before, done = recorded
    kinds = {(op.kind, op.name) for op in done if op.kind != "N"}
    assert {("W", "state.db-wal"), ("S", "state.db-wal"), ("W", "vault.db-wal")} <= kinds
    assert len(power.said(done)) > 40
    whole = [*done, *(power.Op("S", name, 0, b"") for name in {name for _, name in kinds})]
    power.cut(before, tmp_path / "whole", whole, random.Random(1))
    assert kept(tmp_path / "whole", power.said(done)) > 40


@pytest.mark.timeout(1800)
def test_no_power_cut_loses_what_left(
    recorded: tuple[Path, list[power.Op]], tmp_path: Path
) -> None:
    before, done = recorded
    chance = random.Random(SEED)
    sizes = set()
    for home, said in power.states(before, tmp_path, done, CUTS, chance):
        sizes.add(kept(home, said))
        assert execute(state(home), "PRAGMA quick_check") == [("ok",)]
        assert execute(vault(home), "PRAGMA quick_check") == [("ok",)]
    assert len(sizes) > min(CUTS, 20) / 2, "the cuts were at different moments"


def test_a_disk_that_does_not_sync_is_found_out(
    recorded: tuple[Path, list[power.Op]], tmp_path: Path
) -> None:
    """The model has teeth: without its syncs the same process loses what it promised."""
    before, done = recorded
    lying = [op for op in done if op.kind != "S"]
    broken = 0
    for home, said in power.states(before, tmp_path, lying, 20, random.Random(SEED)):
        try:
            kept(home, said)
        except Exception:  # noqa: BLE001 - anything from a bad page to a missing RESULT
            broken += 1
    assert broken > 10
