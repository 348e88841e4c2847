"""A home that was copied, with real processes: it is caught, decides nothing, and recovers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exclave_testing.mainjob import PACKS, model_words, ship
from exclave_testing.processes import BIN, Agent, World, run, wait_for


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[World, Agent]]:
    """A coordinator and one agent that answers."""
    world = World(tmp_path)
    try:
        world.up()
        world.tenant("acme", ("alice", "bob", "carol"), 2)
        agent = world.add_agent("acme", "edge")
        agent.start()
        agent.create_key("analyst")
        ship(world, "acme", models=model_words()[:1], packs=[PACKS / "starter"])
        yield world, agent
    finally:
        world.close()


def audit(agent: Agent) -> dict[str, Any]:
    found: dict[str, Any] = agent.status()["audit"]
    return found


def proven(agent: Agent) -> bool:
    found = audit(agent)
    return bool(found["proven"]) and found["witnessed_size"] == found["size"]


def answers(agent: Agent) -> None:
    """Once its model is loaded."""
    wait_for("an answer", lambda: agent.chat("Say hello.")[0] == 200, 60)


def refuses(agent: Agent) -> None:
    """Once its model is loaded, and never anything else."""

    def refused() -> bool:
        code, answer = agent.chat("Say hello.")
        assert code == 503
        return bool(answer["error"]["code"] == "log_frozen")

    wait_for("a refusal", refused, 60)


def test_a_copied_home_is_caught_and_begins_a_new_epoch(
    pair: tuple[World, Agent], tmp_path: Path
) -> None:
    world, agent = pair
    answers(agent)
    wait_for("the first term to be confirmed", lambda: proven(agent))
    agent.service.stop()
    clone = Agent(Path(shutil.copytree(agent.home, agent.home.with_name("clone"))))
    clone.key = agent.key
    world.agents["clone"] = clone
    agent.start()
    answers(agent)
    wait_for("the second term to be confirmed", lambda: proven(agent))
    assert audit(agent)["term"] == 2

    clone.start()
    wait_for("the copy to be caught", lambda: audit(clone)["frozen"])
    refuses(clone)
    assert "exclave-agent audit recover" in audit(clone)["frozen"]
    answers(agent)  # the one that was there goes on
    clone.service.stop()
    clone.start()
    refuses(clone)  # a restart does not thaw it

    assert "stop it first" in clone.cli("audit", "recover", "--reason", "x", code=1)
    clone.service.stop()
    said = clone.cli("audit", "recover", "--reason", "moved to new hardware", code=1)
    assert "exclave agent reopen acme edge" in said
    world.coordinator.ctl("agent", "reopen", "acme", "edge", "--reason", "moved")
    said = clone.cli("audit", "recover", "--reason", "moved to new hardware")
    assert "epoch 2 begins" in said
    clone.start()
    answers(clone)
    wait_for("the second epoch to be confirmed", lambda: proven(clone))
    assert (audit(clone)["epoch"], audit(clone)["term"]) == (2, 1)
    kinds = [r["type"] for r in json.loads(clone.cli("audit", "show", "--last", "999", "--json"))]
    assert kinds[:5] == ["GENESIS", "EPOCH", "GAP", "RECOVERY", "BOOT"]
    old = json.loads(clone.cli("audit", "show", "--epoch", "1", "--last", "999", "--json"))
    assert old[0]["type"] == "GENESIS"

    agent.chat("Say hello.")
    wait_for("the former home to be stopped", lambda: audit(agent)["frozen"], 60)
    refuses(agent)

    bundle = tmp_path / "bundle.zip"
    world.coordinator.ctl("audit", "pull", "--tenant", "acme", "-o", bundle)
    report = json.loads(run([BIN / "exclave-verify", "--json", bundle], code=3).stdout)
    assert report["verdict"] == "DIVERGED", "both signed heads are in it"
    assert "epoch 2 continues at size" in json.dumps(report)


def test_nothing_is_decided_before_the_log_is_proven(pair: tuple[World, Agent]) -> None:
    world, agent = pair
    wait_for("the first term to be confirmed", lambda: proven(agent))
    agent.service.stop()
    (agent.home / "agent.toml").write_text('boot_proof = "required"\n')
    world.coordinator.service.stop()
    agent.start()
    refuses(agent)
    world.coordinator.start()
    wait_for("the log to be proven", lambda: audit(agent)["proven"], 60)
    wait_for("an answer", lambda: agent.chat("Say hello.")[0] == 200, 60)
