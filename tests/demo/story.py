"""The steps of the demo, each a function that does one thing for real and returns its figure."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from exclave_testing.mainjob import ALL_PACKS, PACKS, model_words
from exclave_testing.processes import BIN, World, run, wait_for

SECRET_PROMPT = "Claim 4711: Ms Quillfeather's azure teapot arrived cracked. Propose a remedy."
LATER_PROMPT = "Claim 4712: Mr Brambleworth wants the vermilion kettle replaced."
CANARIES = (b"Quillfeather", b"azure teapot", b"Brambleworth", b"vermilion")


class Story:
    """What the steps share: the world, and what earlier steps learned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tap = folder / "received.bin"
        self.world = World(folder, tap=self.tap)
        self.say: Callable[[str], None] = lambda _: None
        self.answers: list[str] = []
        self.bundle = folder / "bundle.zip"

    def close(self) -> None:
        """Stop every process."""
        self.world.close()


def coordinator_up(story: Story) -> str:
    """Trust domain, CA, online keys, database, operator; then serve."""
    story.world.up()
    return "coordinator initialised and serving on two TLS 1.3 ports"


def tenant_with_signers(story: Story) -> str:
    """Three people hold keys; two of them must agree."""
    story.world.tenant("acme", ("alice", "bob", "carol"), 2)
    return "tenant acme: any 2 of alice, bob, carol sign; the coordinator holds none of their keys"


def agents_join(story: Story) -> str:
    """Two agents, each its own process and folder."""
    for name in ("north", "south"):
        story.say(name)
        agent = story.world.add_agent("acme", name)
        agent.start()
        agent.create_key("analyst")
    return "agents north and south joined with single-use tokens and hold sessions"


def under_signed_is_refused(story: Story) -> str:
    """Build a release, sign it once: publishing says what is missing."""
    story.world.build("acme", ALL_PACKS, model_words())
    story.world.sign("acme", "alice")
    refusal = story.world.publish("acme", code=1)
    assert "missing" in refusal, refusal
    return next(line for line in refusal.splitlines() if "missing" in line).strip()


def release_rolls_out(story: Story) -> str:
    """The second signature, publish, roll out, activate on both agents."""
    story.world.sign("acme", "bob")
    story.say("uploading and publishing")
    story.world.publish("acme")
    started = time.monotonic()
    story.say("agents verify, download and load the models")
    story.world.rollout("acme")
    seconds = time.monotonic() - started
    for agent in story.world.agents.values():
        code, models = agent.get("/v1/models")
        assert code == 200 and {m["id"] for m in models["data"]} == {"smollm2", "fraud"}, models
    return f"2 of 2 agents applied release 1 in {seconds:.1f} s (98 MB model each)"


def openai_client_streams(story: Story) -> str:
    """The stock OpenAI client, unchanged."""
    from openai import OpenAI

    figures = []
    for name, agent in story.world.agents.items():
        client = OpenAI(base_url=f"{agent.url}/v1", api_key=agent.key, max_retries=0)
        stream = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": SECRET_PROMPT}],
            max_tokens=48,
            temperature=0,
            stream=True,
        )
        text, chunks = "", 0
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
                chunks += 1
        assert len(text) > 20 and chunks > 3, (text, chunks)
        story.answers.append(text)
        figures.append(f"{name}: {chunks} chunks")
    return f"streamed from {', '.join(figures)}; first words: {story.answers[0][:60]!r}"


def classifier_answers(story: Story) -> str:
    """Open Inference Protocol v2 over plain HTTP."""
    fixtures = json.loads((PACKS / "fraud" / "fixtures.json").read_text())
    rows = fixtures["rows"]
    data = [value for row in rows for value in row["features"]]
    shape = [len(rows), len(rows[0]["features"])]
    agent = story.world.agents["south"]
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": shape, "data": data}]}
    code, answer = agent.post("/v2/models/fraud/infer", body)
    assert code == 200, (code, answer)
    labels = next(o for o in answer["outputs"] if o["name"] == "label")["data"]
    right = sum(int(a == row["label"]) for a, row in zip(labels, rows, strict=True))
    assert right >= len(rows) * 0.8, f"{right} of {len(rows)} held-out rows right"
    return f"{right} of {len(rows)} held-out rows classified as labelled"


def policy_push_denies(story: Story) -> str:
    """Change one rule, sign twice, roll out: the next request is denied."""
    pack = story.folder / "starter-strict"
    shutil.copytree(PACKS / "starter", pack)
    forbid = {
        "apiVersion": "exclave.dev/v1",
        "kind": "Policy",
        "metadata": {"name": "freeze", "version": "1", "description": "stop chats for a while"},
        "spec": {
            "rules": [
                {"id": "freeze-chat", "description": "incident: no chat for analysts"}
                | {"effect": "deny", "subjects": {"roles": ["analyst"]}}
                | {"actions": ["chat"], "models": ["*"]}
            ]
        },
    }
    (pack / "policy-freeze.yaml").write_text(json.dumps(forbid))
    # The copied cases describe the former policy; the frozen one has its own single case.
    case = {"name": "chat is frozen", "given": {"roles": ["analyst"], "action": "chat"}}
    case["given"] |= {"model": "smollm2", "subject": "s"}
    case["expect"] = {"allowed": False, "rule": "freeze-chat"}
    (pack / "cases.yaml").write_text(json.dumps({"cases": [case]}))
    story.world.build("acme", [pack, PACKS / "fraud"], ["keep"])
    story.world.sign("acme", "carol", "alice")
    story.world.publish("acme")
    started = time.monotonic()
    story.world.rollout("acme")
    code, answer = story.world.agents["north"].chat(SECRET_PROMPT)
    seconds = time.monotonic() - started
    assert code == 403, (code, answer)
    assert "freeze-chat" in json.dumps(answer), answer
    assert seconds < 10, f"the denial took {seconds:.1f} s from the push"
    return f"denied by rule freeze-chat {seconds:.1f} s after the push; models were not reloaded"


def rule_is_lifted(story: Story) -> str:
    """Another signed release puts the first policy back (a fleet revert moves forward)."""
    story.world.build("acme", ALL_PACKS, ["keep"])
    story.world.sign("acme", "alice", "bob")
    story.world.publish("acme")
    story.world.rollout("acme")
    code, _ = story.world.agents["north"].chat("Say hello.")
    assert code == 200, code
    return "release 3 allows chat again"


def agents_outlive_the_centre(story: Story) -> str:
    """Kill the coordinator; the agents answer on."""
    story.world.coordinator.service.kill()
    answered = 0
    for agent in story.world.agents.values():
        for _ in range(2):
            code, answer = agent.chat(LATER_PROMPT)
            assert code == 200, (code, answer)
            story.answers.append(answer["choices"][0]["message"]["content"])
            answered += 1
    return f"coordinator killed (SIGKILL); {answered} decisions answered and recorded without it"


def records_arrive(story: Story) -> str:
    """The coordinator comes back; what happened meanwhile arrives and is witnessed."""
    sizes = {name: agent.status()["audit"]["size"] for name, agent in story.world.agents.items()}
    story.world.coordinator.start()

    def witnessed() -> bool:
        listed = story.world.coordinator.ctl_json("agent", "list", "--tenant", "acme")
        have = {agent["name"]: agent["witnessed_size"] for agent in listed}
        return all(have.get(name, 0) >= size for name, size in sizes.items())

    started = time.monotonic()
    wait_for("records written during the outage to be witnessed", witnessed, 60)
    total = sum(sizes.values())
    return f"{total} records witnessed {time.monotonic() - started:.1f} s after the restart"


def bundle_verifies(story: Story) -> str:
    """Pull the audit bundle and verify it offline."""
    story.world.coordinator.ctl("audit", "pull", "--tenant", "acme", "-o", story.bundle)
    report = run([BIN / "exclave-verify", "--json", story.bundle])
    verdict = json.loads(report.stdout)
    assert verdict["verdict"] == "WITNESSED", verdict
    return f"WITNESSED: {len(verdict['steps'])} steps held, {story.bundle.stat().st_size:,} bytes"


def one_field_is_disclosed(story: Story) -> str:
    """The tenant discloses one field of one record; nothing else becomes known."""
    agent = story.world.agents["north"]
    shown = json.loads(agent.cli("audit", "show", "--json"))
    record = next(r for r in shown if r["type"] == "INTENT" and r["body"]["action"] == "chat")
    proof = story.folder / "disclosure.json"
    agent.cli("audit", "disclose", "--seq", str(record["seq"]), "--field", "prompt", "-o", proof)
    done = run([BIN / "exclave-verify", "--disclosure", proof, story.bundle])
    assert "Quillfeather" in done.stdout, done.stdout
    return f"prompt of record {record['seq']} proven against the bundle, nothing else revealed"


def forgery_is_caught(story: Story) -> str:
    """Flip one byte of one record in a copy."""
    import zipfile

    forged = story.folder / "forged.zip"
    with zipfile.ZipFile(story.bundle) as source, zipfile.ZipFile(forged, "w") as target:
        records = sorted(n for n in source.namelist() if "/records/" in n)
        victim = records[len(records) // 2]
        for info in source.infolist():
            data = bytearray(source.read(info))
            if info.filename == victim:
                data[len(data) // 2] ^= 1
            target.writestr(info, bytes(data))
    done = run([BIN / "exclave-verify", forged], code=1)
    assert "INVALID" in done.stdout and victim.split("/")[-1] in done.stdout, done.stdout
    return f"INVALID: {victim}"


def nothing_raw_crossed(story: Story) -> str:
    """Search everything that reached the coordinator for prompts and answers."""
    needles = [*CANARIES, *(text[:40].encode() for text in story.answers)]
    searched = 0
    places = [story.tap, *(p for p in story.world.coordinator.home.rglob("*") if p.is_file())]
    for place in places:
        data = place.read_bytes()
        searched += len(data)
        for needle in needles:
            assert needle not in data, f"{needle!r} found in {place}"
            assert json.dumps(needle.decode())[1:-1].encode() not in data, place
    assert story.tap.stat().st_size > 10_000, "the tap captured too little to mean anything"
    for path in story.world.agents["north"].home.glob("*.db*"):
        raw = path.read_bytes()
        assert not any(needle in raw for needle in CANARIES), f"{path.name} holds plaintext"
    return (
        f"{searched:,} bytes searched ({story.tap.stat().st_size:,} of them traffic as received) "
        f"for {len(needles)} prompts and answers: none found"
    )


STEPS: list[tuple[str, Callable[[Story], str]]] = [
    ("coordinator: init and serve", coordinator_up),
    ("tenant acme with a 2-of-3 key set", tenant_with_signers),
    ("two agents join", agents_join),
    ("a release signed once is refused", under_signed_is_refused),
    ("signed twice, published, rolled out, active", release_rolls_out),
    ("the openai client streams an answer", openai_client_streams),
    ("the classifier answers over Open Inference v2", classifier_answers),
    ("a policy push denies the next request", policy_push_denies),
    ("a further release lifts the rule", rule_is_lifted),
    ("the coordinator is killed, the agents answer on", agents_outlive_the_centre),
    ("the coordinator is back, the records arrive", records_arrive),
    ("the audit bundle is pulled and verified", bundle_verifies),
    ("one field is disclosed and proven", one_field_is_disclosed),
    ("one flipped byte is found", forgery_is_caught),
    ("no prompt or answer crossed", nothing_raw_crossed),
]
