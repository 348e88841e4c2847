"""A subject's right to be forgotten, against the running agent: nothing opens, nothing is left in a
file, and the evidence holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from exclave_testing.homes import execute, state, vault
from exclave_testing.processes import BIN, Agent, World, run, wait_for

SUBJECT = "patient-ada-4711"


def records(agent: Agent) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(
        agent.cli("audit", "show", "--last", "500", "--values", "--json")
    )
    return shown


def sealed(home: Path) -> list[bytes]:
    """Every sealed value and wrapped key now, in parts of 16 bytes."""
    rows = execute(state(home), "SELECT sealed FROM leaf WHERE sealed IS NOT NULL")
    rows += execute(vault(home), "SELECT wrapped FROM subject")
    found = [row[0] for row in rows if isinstance(row[0], bytes)]
    return [data[at : at + 16] for data in found for at in range(0, len(data) - 16, 16)]


def files_with(home: Path, needles: Iterable[bytes]) -> set[str]:
    data = {p.name: p.read_bytes() for p in home.glob("*.db*")}
    return {name for name, held in data.items() if any(n in held for n in needles)}


def test_what_is_erased_is_gone_and_the_bundle_still_verifies(world: World, folder: Path) -> None:
    agent = world.agents["north"]
    before = set(sealed(agent.home))
    code, answer = agent.chat("Ada is allergic to penicillin. Say hello.", user=SUBJECT)
    assert code == 200, answer
    code, _ = agent.chat("Somebody else asks. Say hello.", user="bob")
    assert code == 200
    hers = [r for r in records(agent) if "penicillin" in json.dumps(r.get("values", {}))]
    (decision,) = {r["body"]["decision"] for r in hers}

    reference = "CASE-2026-17"
    agent.cli("audit", "hold", "--subject", SUBJECT, "--reference", reference)
    (hold,) = json.loads(agent.cli("audit", "holds", "--json"))
    assert (hold["subject"], hold["reference"]) == (SUBJECT, reference)
    assert reference in agent.cli("audit", "erase", "--subject", SUBJECT, "--yes", code=1)
    agent.cli("audit", "lift", hold["hold"])
    assert "no legal hold" in agent.cli("audit", "holds")

    added = set(sealed(agent.home)) - before
    assert files_with(agent.home, added), "the search finds what is there"
    said = agent.cli("audit", "erase", "--subject", SUBJECT, "--yes")
    assert "destroyed: the values of" in said
    after = records(agent)
    assert not [r for r in after if "penicillin" in json.dumps(r.get("values", {}))]
    assert [r["values"] for r in after if r["body"].get("decision") == decision] == [{}, {}]
    left = set(sealed(agent.home))
    assert files_with(agent.home, added - left) == set(), "neither values nor key, in no file"
    assert [r["body"]["reason"] for r in after if r["type"] == "ERASURE"][-1] == "subject"
    assert SUBJECT not in json.dumps([r["body"] for r in after])

    agent.cli("audit", "verify")
    code, _ = agent.chat("Still there?", user=SUBJECT)
    assert code == 200
    size = agent.status()["audit"]["size"]

    def witnessed() -> bool:
        listed = world.coordinator.ctl_json("agent", "list", "--tenant", "acme")
        return any(a["name"] == "north" and a["witnessed_size"] >= size for a in listed)

    wait_for("the erasure to be witnessed", witnessed)
    world.coordinator.ctl("audit", "pull", "--tenant", "acme", "-o", folder / "erased.zip")
    report = json.loads(run([BIN / "exclave-verify", "--json", folder / "erased.zip"]).stdout)
    assert report["verdict"] == "WITNESSED"


def test_without_an_agent_the_home_is_opened_for_it(world: World) -> None:
    agent = world.agents["south"]
    code, _ = agent.chat("Say hello.", user=SUBJECT)
    assert code == 200
    agent.service.stop()
    try:
        said = agent.cli("audit", "erase", "--subject", SUBJECT, "--yes")
        assert "kept answers; ERASURE is record" in said
        again = agent.cli("audit", "erase", "--subject", SUBJECT, "--yes", code=1)
        assert "nothing is kept" in again
        agent.cli("audit", "verify")
    finally:
        agent.start()
    wait_for("it to answer", lambda: agent.chat("Say hello.", user=SUBJECT)[0] == 200)
