"""kill -9 of a model's worker in the middle of an answer: one answer is lost, and on record."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from exclave_testing.mainjob import model_words, ship
from exclave_testing.processes import Agent, World, wait_for

pytestmark = pytest.mark.model


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """A real agent with one language model, of which nobody but this test asks anything."""
    world = World(tmp_path)
    try:
        world.up()
        world.tenant("acme", ("alice", "bob", "carol"), 2)
        made = world.add_agent("acme", "north")
        made.start()
        made.create_key("analyst")
        ship(world, "acme", models=model_words()[:1])
        yield made
    finally:
        world.close()


def workers(agent: Agent) -> list[int]:
    """The agent's child processes."""
    pid = agent.status()["pid"]
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def results(agent: Agent) -> list[dict[str, str]]:
    """The RESULT leaves so far."""
    shown = json.loads(agent.cli("audit", "show", "--json"))
    return [leaf["body"] for leaf in shown if leaf["type"] == "RESULT"]


def test_one_answer_is_lost_and_nothing_else(agent: Agent) -> None:
    before, pid = len(results(agent)), agent.status()["pid"]
    (worker,) = workers(agent)
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Tell a long story about a lighthouse."}],
        "max_tokens": 256,
        "temperature": 0,
        "stream": True,
    }
    connection = http.client.HTTPConnection(urlsplit(agent.url).netloc, timeout=60)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"authorization": f"Bearer {agent.key}", "content-type": "application/json"},
    )
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    heard = b""
    while heard.count(b"data: ") < 4:
        heard += answer.readline()
    with ThreadPoolExecutor(1) as pool:
        # In flight as well, but without a word yet: it is tried again, and answered.
        os.kill(worker, signal.SIGSTOP)
        other = pool.submit(agent.chat, "Count to a hundred.", max_tokens=200)
        wait_for(
            "the second request to be with the worker",
            lambda: any(one["in_use"] == 2 for one in agent.status()["memory"]["models"]),
        )
        os.kill(worker, signal.SIGKILL)
        rest = answer.read()
        assert b"worker_crashed" in rest, rest[-500:]
        assert b"[DONE]" not in rest
        code, told = other.result()
    assert code == 200, told
    connection.close()
    # The agent is the same process, has another worker, and answers.
    assert agent.status()["pid"] == pid
    assert workers(agent) != [worker]
    code, told = agent.chat("Still there?")
    assert code == 200, told
    assert "loaded" in agent.cli("models")
    outcomes = sorted((one["outcome"], one["reason"]) for one in results(agent)[before:])
    assert outcomes == [("answered", ""), ("answered", ""), ("failed", "worker_crashed")]
    agent.cli("audit", "verify")
