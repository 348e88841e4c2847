"""The promises of the design, held against real processes, real TLS and real models."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from exclave_testing.processes import BIN, World, run, wait_for


def witnessed(world: World, name: str, size: int) -> bool:
    """True once the coordinator has cosigned `size` leaves of an agent."""
    listed = world.coordinator.ctl_json("agent", "list", "--tenant", "acme")
    return any(a["name"] == name and a["witnessed_size"] >= size for a in listed)


def pull(world: World, bundle: Path) -> Path:
    """Wait until every record so far is witnessed, then pull the tenant's bundle."""
    for name, agent in world.agents.items():
        size = agent.status()["audit"]["size"]
        wait_for(f"{name}'s records to be witnessed", lambda n=name, s=size: witnessed(world, n, s))
    world.coordinator.ctl("audit", "pull", "--tenant", "acme", "-o", bundle)
    return bundle


def test_a_real_model_answers_and_the_record_verifies(world: World, folder: Path) -> None:
    agent = world.agents["north"]
    body = {"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 6}
    code, answer = agent.post("/v1/completions", {**body, "temperature": 0})
    assert code == 200
    assert "Paris" in answer["choices"][0]["text"]
    report = json.loads(
        run([BIN / "exclave-verify", "--json", pull(world, folder / "b.zip")]).stdout
    )
    assert report["verdict"] == "WITNESSED"


def test_denials_are_recorded_too(world: World) -> None:
    agent = world.agents["north"]
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    analyst = agent.key
    agent.create_key("nobody")
    try:
        code, answer = agent.post("/v1/chat/completions", body)
    finally:
        agent.key = analyst
    assert code == 403, answer
    shown = json.loads(agent.cli("audit", "show", "--json"))
    denied = [r for r in shown if r["type"] == "RESULT" and r["body"]["outcome"] == "denied"]
    assert denied[-1]["body"]["policy"]["rule"]


def test_nothing_raw_reaches_the_coordinator(world: World, folder: Path) -> None:
    agent = world.agents["south"]
    canary = "Zanzibar-Orchid-99173"
    code, answer = agent.chat(f"Repeat the words {canary} and say hello.")
    assert code == 200
    said = answer["choices"][0]["message"]["content"]
    pull(world, folder / "b.zip")
    with zipfile.ZipFile(folder / "b.zip") as bundle:
        received = [bundle.read(name) for name in bundle.namelist()]
    home = world.coordinator.home
    received += [p.read_bytes() for p in home.rglob("*") if p.is_file() and p.stat().st_size < 5e7]
    tap = (world.folder / "received.bin").read_bytes()
    assert len(tap) > 10_000, "the tap captured too little to mean anything"
    for data in [tap, *received]:
        assert canary.encode() not in data
        assert said[:32].encode() not in data
    for path in agent.home.glob("*.db*"):
        assert canary.encode() not in path.read_bytes(), f"{path.name} holds plaintext"


def test_the_agent_outlives_the_centre(world: World) -> None:
    agent = world.agents["north"]
    world.coordinator.service.kill()
    try:
        code, _ = agent.chat("Still there?")
        assert code == 200
        # A restart without the centre: the last verified release comes back from disk.
        agent.service.kill()
        agent.start()
        wait_for("the restored release to answer", lambda: agent.chat("And now?")[0] == 200, 60)
        size = agent.status()["audit"]["size"]
    finally:
        world.coordinator.start()
    wait_for("the records of the outage to arrive", lambda: witnessed(world, "north", size), 60)


def test_a_second_agent_in_one_home_is_refused(world: World) -> None:
    agent = world.agents["north"]
    done = run([BIN / "exclave-agent", "run", "--home", agent.home], code=1)
    assert "another agent uses this home" in done.stderr


def test_status_and_doctor_tell_the_truth(world: World) -> None:
    agent = world.agents["north"]
    status = agent.status()
    assert status["tenant"] == "acme"
    assert status["agent"] == "north"
    assert status["release"]["version"] >= 1
    assert {m["name"] for m in status["models"]} == {"smollm2", "fraud"}
    agent.cli("doctor")
    run([BIN / "exclave-coordinator", "doctor", "--home", world.coordinator.home])
