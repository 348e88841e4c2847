"""`exclave policy` as people type it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exclave_testing.ctl import Ctl
from exclave_testing.policies import allow, deny, document

GIVEN = "{roles: [analyst], action: chat, model: m, workflow: private}"
RULES = (
    allow("a", data_classes=["*"], when="request.message_count < 5"),
    deny("watched", mode="audit", when='run.workflow != ""'),
)


@pytest.fixture
def packs(tmp_path: Path) -> tuple[Path, Path]:
    """An old and a new version of a pack."""
    cases = [
        {
            "name": "an analyst chats",
            "given": {"roles": ["analyst"], "action": "chat", "model": "m"},
            "expect": {"allowed": True, "rule": "a"},
        }
    ]
    new = (*RULES, deny("secret", data_classes=["secret"]))
    return (
        write(tmp_path / "old", RULES, cases),
        write(tmp_path / "new", new, cases),
    )


def write(folder: Path, rules: tuple[dict[str, Any], ...], cases: list[Mapping[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "policy.yaml").write_text(json.dumps(document(*rules)))
    (folder / "cases.yaml").write_text(json.dumps(cases))
    return folder


def test_check_tells_what_is_suspicious_and_strict_refuses_it(ctl: Ctl, tmp_path: Path) -> None:
    pack = write(tmp_path / "p", (allow("a"),), [])
    told = ctl("policy", "check", pack).stdout
    assert "allows without saying which data" in told
    assert "no faults, 1 warnings" in told
    ctl("policy", "check", pack, "--strict", code=1)
    listed = ctl.json("policy", "check", pack)
    assert (listed["ok"], listed["warnings"][0]["file"]) == (True, "policy.yaml")


def test_test_gates_on_coverage(ctl: Ctl, packs: tuple[Path, Path]) -> None:
    old, new = packs
    told = ctl("policy", "test", old, new)
    assert "1 of 1 cases pass; 50% of rules reached, 50% of branches" in told.stdout
    assert "never true: run.workflow" in told.stderr
    assert ctl("policy", "test", new, "--require-rules", "100", code=1)
    assert ctl("policy", "test", old, "--require-branches", "60", code=1)
    ctl("policy", "test", old, "--require-rules", "50", "--require-branches", "50")
    assert [each["name"] for each in ctl.json("policy", "test", old, new)["packs"]] == ["test"] * 2


def test_diff_says_what_changes(ctl: Ctl, packs: tuple[Path, Path]) -> None:
    old, new = packs
    told = ctl("policy", "diff", old, new)
    assert "now denied: analyst, chat, data class secret" in told.stdout
    assert "requests of the grid were tried" in told.stderr
    ctl("policy", "diff", old, new, "--exit-code", code=1)
    assert "nothing is allowed or denied otherwise" in ctl("policy", "diff", old, old).stdout
    assert ctl.json("policy", "diff", new, old)["changes"][0]["kind"] == "now allowed"


def test_explain_shows_terms_and_hides_what_the_policy_does_not_hold(
    ctl: Ctl, packs: tuple[Path, Path]
) -> None:
    told = ctl("policy", "explain", packs[0], "--given", GIVEN).stdout
    assert "allowed: rule a allows this" in told
    assert "with audited rules enforced: denied by watched" in told
    assert "<text of 7>" in told
    assert "private" not in told
    assert '"private"' in ctl("policy", "explain", packs[0], "--given", GIVEN, "--values").stdout
    assert ctl.json("policy", "explain", packs[0], "--given", GIVEN)["would"]["rule"] == "watched"


def test_try_decides_one_request(ctl: Ctl, packs: tuple[Path, Path], tmp_path: Path) -> None:
    asked = tmp_path / "request.yaml"
    asked.write_text("{roles: [analyst], action: chat, model: m, data_class: secret}")
    assert "allowed: rule a" in ctl("policy", "try", packs[0], "--given", f"@{asked}").stdout
    assert "denied: rule secret" in ctl("policy", "try", packs[1], "--given", f"@{asked}").stdout
    assert ctl.json("policy", "try", packs[1], "--given", GIVEN)["matched"] == ["a"]
    refused = ctl("policy", "try", packs[0], "--given", "{roles: [analyst], acton: chat}", code=1)
    assert "did you mean 'action'?" in refused.stderr
    ctl("policy", "try", packs[0], code=2)
    ctl("policy", "try", packs[0], "--given", GIVEN, "--against-log", tmp_path, code=2)


def test_try_against_a_log_asks_the_agents_own_program(
    ctl: Ctl, packs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    missing = ctl("policy", "try", packs[0], "--against-log", tmp_path, code=1)
    assert "exclave-agent is not installed on this machine" in missing.stderr
    agent = tools / "exclave-agent"
    agent.write_text('#!/bin/sh\necho "3 decisions: $*"\n')
    agent.chmod(0o755)
    told = ctl("policy", "try", packs[0], "--against-log", tmp_path).stdout
    assert told == f"3 decisions: try {packs[0]} --home {tmp_path}\n"
    agent.write_text('#!/bin/sh\necho "error: the home is not readable" >&2\nexit 1\n')
    failed = ctl("policy", "try", packs[0], "--against-log", tmp_path, code=1)
    assert "the home is not readable" in failed.stderr
