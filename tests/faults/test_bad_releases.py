"""Bad releases and model files against real processes: refused by name, the last good one answers.

What needs forged metadata (unsigned, expired, rolled back, mix-and-match) is held at the
agent's verifier in tests/agent/releases; here the coordinator's own store is tampered with,
as a thief of the coordinator would.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exclave_testing.gguf import crashing_gguf
from exclave_testing.mainjob import ALL_PACKS, FRAUD_MODEL
from exclave_testing.processes import Agent, World, wait_for


@pytest.fixture(scope="module")
def victim(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """A tenant of one agent with a small, good release to keep."""
    world.tenant("victim", ("erin", "frank"), 2)
    agent = Agent(tmp_path_factory.mktemp("victim") / "home")
    agent.join(world.token("victim", "solo"))
    agent.start()
    agent.create_key("analyst")
    try:
        world.build("victim", ALL_PACKS, [f"fraud={FRAUD_MODEL},runtime=onnx"])
        world.sign("victim", "erin", "frank")
        world.publish("victim")
        world.rollout("victim")
        yield agent
    finally:
        agent.service.kill()


def answers(agent: Agent) -> bool:
    """True when the last good release still classifies."""
    inputs = agent.get("/v2/models/fraud")[1]["inputs"][0]
    size = inputs["shape"][1]
    tensor = {"name": inputs["name"], "datatype": "FP32", "shape": [1, size], "data": [0.0] * size}
    return agent.post("/v2/models/fraud/infer", {"inputs": [tensor]})[0] == 200


def refused(agent: Agent, before: int, word: str) -> None:
    """Wait until a newer generation is reported as failed, by name; the old one answers on."""

    def failed() -> bool:
        status = agent.status()["coordinator"]["observed"]
        return status["generation"] > before and status["phase"] == "FAILED"

    wait_for("the release to be refused", failed, 60)
    observed = agent.status()["coordinator"]["observed"]
    assert word in json.dumps(observed), observed
    assert answers(agent)


def roll(world: World, agent: Agent) -> int:
    """Start a rollout without waiting; returns the generation before it."""
    before = int(agent.status()["coordinator"]["observed"]["generation"])
    world.coordinator.ctl("rollout", "start", "victim")
    return before


def test_under_signed_release_is_not_published(world: World, victim: Agent) -> None:
    world.build("victim", ALL_PACKS, ["keep"])
    world.sign("victim", "erin")
    said = world.publish("victim", code=1)
    assert "missing" in said
    assert answers(victim)


def test_gguf_that_crashes_the_loader_keeps_the_last_good_release(
    world: World, victim: Agent, tmp_path: Path
) -> None:
    bad = crashing_gguf(tmp_path / "bad.gguf")
    world.build(
        "victim", ALL_PACKS, [f"fraud={FRAUD_MODEL},runtime=onnx", f"smollm2={bad},runtime=llama"]
    )
    world.sign("victim", "erin", "frank")
    world.publish("victim")
    refused(victim, roll(world, victim), "model_load_failed")
    seen = world.coordinator.ctl_json("agent", "list", "--tenant", "victim")
    assert "model_load_failed" in json.dumps(seen), "the centre must learn of it"


def test_truncated_or_altered_model_file_is_refused(
    world: World, victim: Agent, tmp_path: Path
) -> None:
    # A longer doc_string (protobuf field 6) makes another digest, so the agent must download it.
    model = tmp_path / "fraud2.onnx"
    model.write_bytes(FRAUD_MODEL.read_bytes() + b"\x32\x04demo")
    world.build("victim", ALL_PACKS, [f"fraud={model},runtime=onnx"])
    world.sign("victim", "erin", "frank")
    world.publish("victim")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    (stored,) = (p for p in world.coordinator.home.rglob(digest) if p.is_file())
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2])
    refused(victim, roll(world, victim), "fetch_failed")
    # The half that came through is kept and not asked for again, so alter the other half.
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(victim, roll(world, victim), "tampered")
    stored.write_bytes(whole)


def test_tampered_metadata_at_the_coordinator_is_refused(world: World, victim: Agent) -> None:
    world.build("victim", ALL_PACKS, [f"fraud={FRAUD_MODEL},runtime=onnx"])
    world.sign("victim", "erin", "frank")
    world.publish("victim")
    # The coordinator's thief rewrites the newest signed targets in its database.
    with sqlite3.connect(world.coordinator.home / "coordinator.db") as database:
        name, content = database.execute(
            "select name, content from tuf_files where tenant = 'victim' "
            "and name like '%.targets.json' order by version desc limit 1"
        ).fetchone()
        altered = bytes(content).replace(b'"expires"', b'"expireS"', 1)
        assert altered != bytes(content)
        database.execute(
            "update tuf_files set content = ? where tenant = 'victim' and name = ?",
            (altered, name),
        )
    refused(victim, roll(world, victim), "tampered")


def test_worker_that_is_killed_is_a_failed_request_and_comes_back(
    world: World, victim: Agent
) -> None:
    assert answers(victim)
    assert victim.service.process is not None
    for worker in psutil.Process(victim.service.process.pid).children():
        worker.kill()
    wait_for("the model's next worker to answer", lambda: answers(victim), 60)
    assert victim.service.alive(), "a crashing model is never a dead agent"
    assert victim.status()["counts"]["worker_crashes"] >= 1
