"""How a real agent stops: told once, told twice, while it loads, and killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exclave_testing.processes import Agent, World, wait_for

STORY = "Count from one to five hundred in words."


@pytest.fixture(scope="module")
def stopping(world: World) -> Iterator[Agent]:
    """An agent with the release, started by each test."""
    agent = world.add_agent("acme", "stopping")
    del world.agents["stopping"]  # whose agents all run
    agent.start()
    agent.create_key("analyst")
    wait_for("its first release", lambda: agent.status()["release"])
    agent.service.stop()
    yield agent
    if agent.service.alive():
        agent.service.kill()


def workers(pid: int) -> list[psutil.Process]:
    """The live worker processes of an agent."""
    mark = f"--parent={pid}"
    found = psutil.process_iter(["cmdline", "status"])
    return [
        one
        for one in found
        if mark in (one.info["cmdline"] or ()) and one.info["status"] != psutil.STATUS_ZOMBIE
    ]


def serve(agent: Agent) -> int:
    """Start, and wait for the release; its process id."""
    agent.start()
    wait_for("the release", lambda: agent.status()["release"])
    assert agent.service.process is not None
    return agent.service.process.pid


def begin_a_story(agent: Agent) -> threading.Thread:
    """A request that takes seconds; returns once its INTENT is on record."""
    size = agent.status()["audit"]["size"]
    asking = threading.Thread(target=agent.chat, args=(STORY,), kwargs={"max_tokens": 256})
    asking.start()
    wait_for("its INTENT", lambda: agent.status()["audit"]["size"] > size)
    return asking


def outcome(agent: Agent) -> str:
    """Of the newest RESULT."""
    rows = json.loads(agent.cli("audit", "show", "--last", "5", "--json"))
    return str([row["body"]["outcome"] for row in rows if row["type"] == "RESULT"][-1])


def test_told_once_it_finishes_what_runs_and_leaves_no_process(stopping: Agent) -> None:
    pid = serve(stopping)
    assert len(workers(pid)) == 2
    asking = begin_a_story(stopping)
    assert stopping.service.stop() == 0
    asking.join(10)
    assert outcome(stopping) == "answered"
    assert workers(pid) == []
    assert not list((stopping.home / "run").iterdir())


def test_told_twice_it_stops_at_once_and_records_what_it_cancelled(stopping: Agent) -> None:
    pid = serve(stopping)
    for worker in workers(pid):
        worker.suspend()  # no answer will come by itself
    asking = begin_a_story(stopping)
    heard = stopping.service.tail().count("stopping: 20 s")
    os.kill(pid, signal.SIGTERM)
    wait_for("it to hear", lambda: stopping.service.tail().count("stopping: 20 s") > heard)
    assert stopping.service.stop(15) == 0
    asking.join(10)
    assert outcome(stopping) == "cancelled"
    assert workers(pid) == []
    assert "told twice" in stopping.service.tail()


def test_told_while_its_models_load_it_does_not_wait_for_them(stopping: Agent) -> None:
    stopping.service.log.write_text("")
    stopping.start()
    process = stopping.service.process
    assert process is not None
    wait_for("a worker", lambda: workers(process.pid))
    assert stopping.service.stop() == 0
    assert "answers now" not in stopping.service.tail()
    assert workers(process.pid) == []


def test_killed_it_leaves_no_worker_behind(stopping: Agent) -> None:
    pid = serve(stopping)
    assert len(workers(pid)) == 2
    stopping.service.kill()
    wait_for("the workers to end", lambda: not workers(pid), 10)
    serve(stopping)  # over the sockets that it left
    assert stopping.service.stop() == 0


def test_nothing_in_its_home_is_anybody_elses(stopping: Agent) -> None:
    serve(stopping)
    try:
        run = stopping.home / "run"
        assert stat.S_IMODE((run / "control.sock").stat().st_mode) == 0o600
        open_ones = [
            path
            for path in (stopping.home, *stopping.home.rglob("*"))
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
        ]
        # The API asks for a key besides, and lies in a folder that only its user enters.
        assert open_ones == [run / "agent.sock"]
    finally:
        stopping.service.stop()


def test_every_start_that_fails_says_why_in_one_line(stopping: Agent, tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100)
    stopping.home.rename(home)
    try:
        moved = Agent(home)
        moved.service.log = tmp_path / "log"
        moved.service.start()
        assert moved.service.process is not None
        assert moved.service.process.wait(30) == 1
        assert "107 bytes" in moved.service.tail()
        assert "Traceback" not in moved.service.tail()
    finally:
        home.rename(stopping.home)
