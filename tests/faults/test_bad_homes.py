"""A home that is damaged, foreign or full, under a real agent: refused by name."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.mainjob import ALL_PACKS, FRAUD_MODEL
from exclave_testing.processes import BIN, Agent, World, run, wait_for


@pytest.fixture(scope="module")
def joined(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an agent that has run once and is stopped; tests copy it."""
    agent = Agent(tmp_path_factory.mktemp("homes") / "home")
    agent.join(world.token("acme", "homebody"))
    agent.start()
    agent.service.stop()
    return agent.home


@pytest.fixture
def home(joined: Path, tmp_path: Path) -> Path:
    """A fresh copy of that home."""
    return Path(shutil.copytree(joined, tmp_path / "home"))


def refusal(home: Path) -> str:
    """What `exclave-agent run` says when it refuses to start: one line, no traceback."""
    done = run([BIN / "exclave-agent", "run", "--home", home, "--listen", "127.0.0.1:0"], code=1)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_database_file_that_is_not_ours(home: Path) -> None:
    (home / "state.db").unlink()
    for leftover in home.glob("state.db-*"):
        leftover.unlink()
    with sqlite3.connect(home / "state.db") as database:
        database.execute("create table somebody_elses (x)")
    before = (home / "state.db").read_bytes()
    assert "state.db" in refusal(home)
    assert (home / "state.db").read_bytes() == before, "a foreign file is never touched"


def test_file_that_is_no_database(home: Path) -> None:
    (home / "vault.db").write_bytes(b"hello, I am not a database" * 1000)
    assert "vault.db" in refusal(home)


def test_a_leaf_altered_on_disk_at_the_agent(home: Path) -> None:
    with sqlite3.connect(home / "state.db") as database:
        database.execute(
            "update leaf set data = cast(replace(data, '0.1.0', '0.1.9') as blob) "
            "where id = (1 << 40) + 1"
        )
        assert database.total_changes == 1
    assert "leaf 1" in refusal(home)
    done = run([BIN / "exclave-agent", "audit", "verify", "--home", home], code=1)
    assert "leaf 1" in done.stderr


def test_clock_stepped_back_is_recorded(home: Path) -> None:
    # The floor is what the clock once was: moving it ahead is a clock that stepped back.
    with sqlite3.connect(home / "state.db") as database:
        (floor,) = database.execute("select value from state where key = 'clock.floor'").fetchone()
        later = str(int(floor) + 3_600_000_000_000).encode()
        database.execute("update state set value = ? where key = 'clock.floor'", (later,))
    agent = Agent(home)
    agent.start()
    try:
        shown = json.loads(agent.cli("audit", "show", "--json"))
    finally:
        agent.service.stop()
    incidents = [r["body"] for r in shown if r["type"] == "INCIDENT"]
    assert incidents[-1]["code"] == "clock_stepped_back"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MB (64 are kept in reserve by downloads)."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk_at_a_leaf_append_is_507(world: World, small_disk: Path) -> None:
    world.tenant("cramped", ("erin",), 1)
    agent = Agent(small_disk / "home")
    agent.service.log = small_disk.with_suffix(".log")
    token = small_disk.with_suffix(".token")
    token.write_text(world.token("cramped", "tight"))
    run([BIN / "exclave-agent", "join", "--home", agent.home, "--token-file", token])
    agent.start()
    try:
        agent.create_key("analyst")
        world.build("cramped", ALL_PACKS, [f"fraud={FRAUD_MODEL},runtime=onnx"])
        world.sign("cramped", "erin")
        world.publish("cramped")
        world.rollout("cramped")
        size = agent.get("/v2/models/fraud")[1]["inputs"][0]["shape"][1]
        tensor = {"name": "features", "datatype": "FP32", "shape": [64, size]}
        body = {"inputs": [{**tensor, "data": [0.0] * (64 * size)}]}
        assert agent.post("/v2/models/fraud/infer", body)[0] == 200
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                os.fsync(file.fileno())
        refused: list[object] = []

        def is_refused() -> bool:
            # Space inside the files may take some more records before the disk is needed.
            code, answer = agent.post("/v2/models/fraud/infer", body)
            refused[:] = [code, answer]
            return code != 200

        wait_for("a decision to be refused for want of disk", is_refused, 60)
        assert refused[0] == 507, refused
        assert "disk" in json.dumps(refused[1])
        filler.unlink()
        wait_for(
            "decisions again once there is space",
            lambda: agent.post("/v2/models/fraud/infer", body)[0] == 200,
        )
    finally:
        agent.service.stop()
    agent.cli("audit", "verify")
