"""kill -9 at every moment of a commit, over seeded runs of real decisions: what left is on record.

The bounded run is of every day; `make faults` runs thousands (EXCLAVE_KILL_RUNS).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exclave_testing.decider import PLACES
from exclave_testing.promised import kept

TESTS = Path(__file__).parents[1]
RUNS = int(os.environ.get("EXCLAVE_KILL_RUNS", "500"))
SEED = int(os.environ.get("EXCLAVE_KILL_SEED", "20261126"))
RUNS_OF_A_HOME = 4
"""Each goes on where the one before was killed."""
MOST_COMMITS = 40


class Decider:
    """The process that forks for each run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exclave_testing.decider"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
            text=True,
        )

    def run(self, home: Path, seed: int, where: str, count: int) -> tuple[bool, list[str]]:
        asked = {"home": str(home), "seed": seed, "where": where, "count": count}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"run {seed} ({where} {count}) ended otherwise than by being killed"
        told: dict[str, Any] = json.loads(line)
        return told["killed"], told["said"]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def decider() -> Iterator[Decider]:
    made = Decider()
    yield made
    made.close()


@pytest.mark.timeout(3600)
def test_no_kill_loses_what_left(tmp_path: Path, decider: Decider) -> None:
    chance = random.Random(SEED)
    home, said = tmp_path / "home", list[str]()
    killed: Counter[str] = Counter()
    for number in range(RUNS):
        if number % RUNS_OF_A_HOME == 0:
            shutil.rmtree(home, ignore_errors=True)
            said = []
        where = PLACES[number % len(PLACES)]
        count = chance.randrange(1, 5 if where == "vault" else MOST_COMMITS)
        was_killed, lines = decider.run(home, SEED + number, where, count)
        said += lines
        killed[where] += was_killed
        if (home / "state.db").exists() and (home / "vault.db").exists():
            kept(home, said)
    assert set(killed) == set(PLACES) and min(killed.values()) > RUNS / len(PLACES) / 3, killed


def test_without_a_kill_everything_is_said_and_kept(tmp_path: Path, decider: Decider) -> None:
    was_killed, said = decider.run(tmp_path / "home", SEED, "begin", 10**9)
    assert not was_killed
    kinds = Counter(line.split()[0] for line in said)
    assert kinds.keys() == {"token", "answer", "denied", "cosigned"}
    assert kept(tmp_path / "home", said) > 30


@pytest.mark.parametrize(
    "line", ["answer ghost 3", "token ghost", "denied ghost", f"cosigned 2 {'0' * 64}"]
)
def test_a_promise_that_was_not_kept_is_found(tmp_path: Path, decider: Decider, line: str) -> None:
    _, said = decider.run(tmp_path / "home", SEED, "told", 12)
    kept(tmp_path / "home", said)
    with pytest.raises(AssertionError):
        kept(tmp_path / "home", [*said, line])
