"""Decisions that wait for people, with real processes and a real model: two reviewers with keys
of their own, the answer to whoever asked, and a bundle that proves who approved what."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_protocol.evidence import Verdict, verify_bundle
from exclave_testing.mainjob import model_words, ship
from exclave_testing.obliged import approval, obliging
from exclave_testing.processes import BIN, Agent, World, run, wait_for

CASES = """
- name: an analyst completes text
  given: {roles: [analyst], action: complete, model: smollm2}
  expect: {allowed: true, rule: analysts}
"""


class Reviewer:
    """A person with an API key, a key file, and the command line."""

    def __init__(self, folder: Path, agent: Agent, name: str, role: str = "reviewer") -> None:
        self.folder, self.agent, self.name = folder, agent, name
        made = json.loads(agent.cli("key", "create", "--role", role, "--json"))
        self.api_key, self.secret = str(made["id"]), str(made["key"])
        self.file = folder / f"{name}.key"

    def cli(self, *words: str | Path, code: int = 0) -> str:
        """`exclave-agent review`; what it printed."""
        env = os.environ | {
            "EXCLAVE_API_KEY": self.secret,
            "EXCLAVE_REVIEW_KEY": str(self.file),
            "EXCLAVE_URL": self.agent.url,
        }
        done = run([BIN / "exclave-agent", "review", *words], code=code, env=env)
        return done.stdout + done.stderr

    def register(self) -> None:
        """Make the key, and have it registered."""
        vkey = self.cli("key", self.name, "-o", self.file).splitlines()[0]
        assert self.file.stat().st_mode & 0o777 == 0o600
        self.agent.cli("reviewer", "add", "--vkey", vkey, "--api-key", self.api_key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reviews")


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[World]:
    """One agent whose answers need two reviewers."""
    pack = folder / "pack"
    pack.mkdir()
    (pack / "policy.yaml").write_text(obliging(approvals=["four-eyes"]))
    (pack / "cases.yaml").write_text(CASES)
    (pack / "policy-approval.yaml").write_text(approval(count=2, separate=True))
    made = World(folder, tap=folder / "received.bin")
    try:
        made.up()
        made.tenant("acme", ("alice", "bob", "carol"), 2)
        agent = made.add_agent("acme", "north")
        agent.start()
        agent.create_key("analyst")
        ship(made, "acme", models=model_words()[:1], packs=[pack])
        yield made
    finally:
        made.close()


def held(agent: Agent) -> str:
    """Ask for something; the decision that waits."""
    code, told = agent.post(
        "/v1/completions",
        {
            "model": "smollm2",
            "prompt": "The capital of France is",
            "max_tokens": 5,
            "temperature": 0,
        },
    )
    assert code == 200, told
    assert told["choices"][0]["text"] == "Somebody looks first."
    shown = json.loads(agent.cli("audit", "show", "--json"))
    return str(shown[-1]["body"]["decision"])


def test_two_people_release_an_answer_and_the_bundle_proves_it(world: World, folder: Path) -> None:
    agent = world.agents["north"]
    anne, ben = Reviewer(folder, agent, "anne"), Reviewer(folder, agent, "ben")
    asker = Reviewer(folder, agent, "asker", "analyst")
    agent.key, analyst = asker.secret, agent.key
    for each in (anne, ben):
        each.register()
    assert "anne" in agent.cli("reviewer", "list")
    decision = held(agent)
    assert "nothing waits for you" in asker.cli("list")
    assert decision in anne.cli("list") and "four-eyes" in anne.cli("list")
    assert "Somebody looks first." in asker.cli("answer", decision, code=3)
    text = anne.cli("show", decision)
    assert "| The capital of France is\n" in text and "answer:\n| " in text
    assert "Paris" in text
    assert "the decision is waiting" in anne.cli("approve", decision, "--yes")
    assert "already" in anne.cli("approve", decision, "--yes", code=1)
    assert "the decision is released" in ben.cli("approve", decision, "--yes")
    assert "Paris" in asker.cli("answer", decision)
    assert "waits" in anne.cli("show", decision, code=1)

    second = held(agent)
    better = folder / "better.txt"
    better.write_text("Lyon, says Zanzibar-Orchid.\n")
    ben.cli("correct", second, "--answer", better, "--yes")
    anne.cli("approve", second, "--yes")
    assert asker.cli("answer", second) == "Lyon, says Zanzibar-Orchid.\n"
    agent.cli("reviewer", "remove", "ben")
    third = held(agent)
    assert "no reviewer's key" in ben.cli("approve", third, "--yes", code=1)
    anne.cli("refuse", third, "--yes")
    assert "refused" in asker.cli("answer", third, code=1)
    agent.key = analyst

    size = agent.status()["audit"]["size"]
    wait_for("all records to be witnessed", lambda: _witnessed(world) >= size)
    bundle = folder / "b.zip"
    world.coordinator.ctl("audit", "pull", "--tenant", "acme", "-o", bundle)
    report = verify_bundle(bundle)
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    (step,) = (s for s in report.steps if "reviewer's act" in s.title and "north" in s.title)
    assert step.detail == "5 acts"
    for data in (bundle.read_bytes(), (folder / "received.bin").read_bytes()):
        assert b"Zanzibar" not in data and b"capital of France" not in data


def _witnessed(world: World) -> int:
    listed = world.coordinator.ctl_json("agent", "list", "--tenant", "acme")
    return int(listed[0]["witnessed_size"])
