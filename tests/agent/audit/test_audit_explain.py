"""Explaining recorded decisions, and replaying them under another policy: from a home alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exclave_agent.audit.explain import explain, past
from exclave_agent.cli import cli
from exclave_agent.errors import BadRequest, InputRefused, PolicyDenied
from exclave_agent.ports import Message
from exclave_agent.storage.home import read_log
from exclave_policy.workbench.replay import replay
from exclave_testing.homes import Home, execute, vault
from exclave_testing.obliged import approval, obliging, validator
from exclave_testing.policies import allow, compiled, deny, document
from exclave_testing.routing import Desk, chat

SECRET_RUN = "patient-4711-run"
RULES = (
    allow("day", when="request.message_count < 3 && run.workflow != 'night'"),
    deny("health", data_classes=["health"]),
    deny("watched", mode="audit", when="run.id.startsWith('patient')"),
)


async def recorded(path: Path) -> None:
    """A home with three decisions: allowed, allowed, denied."""
    desk = Desk(policy=json.dumps(document(*RULES)))
    async with desk.open():
        await desk.ask(chat(model="small", run=SECRET_RUN))
        await desk.ask(chat(decision="d2", model="small", data_class="internal"))
        with pytest.raises(PolicyDenied):
            await desk.ask(chat(decision="d3", model="small", data_class="health"))
    async with Home(path) as home:
        for draft in desk.log.drafts:
            await home.log.append(draft)


def lines(path: Path, decision: str, *, full: bool = False) -> list[str]:
    return list(read_log(path, lambda log: explain(log, decision, full=full)).lines())


async def test_a_decision_explains_itself(tmp_path: Path) -> None:
    await recorded(tmp_path)
    told = lines(tmp_path, "d1")
    assert told[0] == "decision d1: answered"
    assert told[1].endswith("rule day")
    assert "allow day: matched" in told
    assert "    true     request.message_count < 3   [request.message_count = 1]" in told
    assert "    true     run.workflow != 'night'   [run.workflow = \"\"]" in told
    assert "deny watched: matched, watched only" in told
    assert "with audited rules enforced: denied by watched" in told
    assert "small: answered" in told
    assert told == lines(tmp_path, "1")
    assert f"[run.id = <text of {len(SECRET_RUN)}>]" in "".join(told)
    assert SECRET_RUN not in "".join(told)
    assert f'[run.id = "{SECRET_RUN}"]' in "".join(lines(tmp_path, "d1", full=True))


async def test_a_denial_explains_itself(tmp_path: Path) -> None:
    await recorded(tmp_path)
    told = lines(tmp_path, "d3")
    assert told[0].startswith("decision d3: denied")
    assert "deny health: matched" in told


async def test_what_was_erased_is_explained_by_the_ids_of_rules(tmp_path: Path) -> None:
    await recorded(tmp_path)
    execute(vault(tmp_path), "DELETE FROM subject")
    told = lines(tmp_path, "d1")
    assert any("rules that matched: day (what made them match is erased" in line for line in told)
    again = read_log(tmp_path, lambda log: replay(compiled(*RULES), past(log, 10)))
    assert (again.total, again.not_kept) == (3, 3)


@pytest.mark.parametrize("reference", ["0", "nobody"])
async def test_a_record_of_no_decision_is_refused(tmp_path: Path, reference: str) -> None:
    await recorded(tmp_path)
    with pytest.raises(BadRequest):
        lines(tmp_path, reference)


@pytest.mark.parametrize(
    ("rules", "counts"),
    [
        (RULES, {"same": 3}),
        ((allow("new"),), {"now_allowed": {("health", "new"): 1}, "other_rule": 2}),
        ((RULES[0],), {"same": 2, "now_allowed": {("health", "day"): 1}}),
        (
            (*RULES, deny("internal", data_classes=["internal"])),
            {"same": 2, "now_denied": {("day", "internal"): 1}},
        ),
        ((*RULES, deny("seen", when='"card" in data.personal')), {"not_seen": 3}),
    ],
)
async def test_a_replay_counts_what_would_change(
    tmp_path: Path, rules: tuple[dict[str, Any], ...], counts: dict[str, Any]
) -> None:
    await recorded(tmp_path)
    found = read_log(tmp_path, lambda log: replay(compiled(*rules), past(log, 10)))
    assert found.total == 3
    assert found.same == counts.get("same", 0)
    assert dict(found.now_allowed) == counts.get("now_allowed", {})
    assert dict(found.now_denied) == counts.get("now_denied", {})
    assert found.other_rule.total() == counts.get("other_rule", 0)
    assert found.not_seen == counts.get("not_seen", 0)


async def test_only_the_newest_are_replayed(tmp_path: Path) -> None:
    await recorded(tmp_path)
    found = read_log(tmp_path, lambda log: replay(compiled(allow("new")), past(log, 1)))
    assert (found.total, dict(found.now_allowed)) == (1, {("health", "new"): 1})


async def test_the_commands(tmp_path: Path) -> None:
    home, pack = tmp_path / "home", tmp_path / "pack"
    await recorded(home)
    pack.mkdir()
    (pack / "policy.yaml").write_text(json.dumps(document(allow("new"))))
    run = CliRunner()
    said = run.invoke(cli, ["explain", "d1", "--home", str(home), "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["policy"]["rule"] == "day"
    tried = run.invoke(cli, ["try", str(pack), "--home", str(home)])
    assert tried.exit_code == 0, tried.output
    assert "3 decisions: 0 as they were, 3 change" in tried.output
    assert "1 would be allowed: health -> new" in tried.output
    counts = run.invoke(cli, ["try", str(pack), "--home", str(home), "--json"])
    assert json.loads(counts.output)["total"] == 3
    assert SECRET_RUN not in said.output + tried.output + counts.output
    (pack / "policy.yaml").write_text("kind: Policy")
    broken = run.invoke(cli, ["try", str(pack), "--home", str(home)])
    assert isinstance(broken.exception, BadRequest)


async def test_what_guards_found_is_told(tmp_path: Path) -> None:
    desk = Desk(
        validator({"pattern": {"must_not": ["zebra"]}}, name="watched", mode="audit"),
        validator({"pattern": {"must_not": ["secret"]}}, name="input", stage="input"),
        validator({"pattern": {"must": ["small"]}}, name="words"),
        approval(),
        policy=obliging(validators=["watched", "input", "words"], approvals=["four-eyes"]),
    )
    async with desk.open():
        desk.models.script("small", "small zebra")
        await desk.ask(chat(model="small"))
        with pytest.raises(InputRefused):
            await desk.ask(
                chat(decision="d2", model="small", messages=(Message("user", "secret"),))
            )
    async with Home(tmp_path) as home:
        for draft in desk.log.drafts:
            await home.log.append(draft)
    told = lines(tmp_path, "d1")
    assert (
        "small: validator watched failed, watched only: pattern: pattern 1 of must_not is in it"
        in told
    )
    assert "validator words passed" in told and "waits for approval four-eyes" in told
    refused = lines(tmp_path, "d2")
    assert refused[0] == "decision d2: denied: input_refused"
    assert "the input: validator input failed: pattern: pattern 1 of must_not is in it" in refused
    assert "secret" not in "".join(refused)
    # What a guard refused, the policy had allowed: a replay must not count it as denied.
    assert [each.allowed for each in read_log(tmp_path, lambda log: list(past(log, 9)))] == [
        True,
        True,
    ]
