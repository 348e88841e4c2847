"""All checks together: none hides another, none shows what it was about, each has its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_agent.doctor import examine
from exclave_agent.doctor.report import Check, Result, ok
from exclave_agent.doctor.rights import RUNS
from exclave_agent.doctor.site import Site
from exclave_agent.errors import StorageError
from exclave_testing.doctor import enrolled, metadata, model, patient, release, running, said
from exclave_testing.processes import ROOT

CANARY = "the patient is called Mabuse"


async def test_a_healthy_agent_under_systemd_has_nothing_to_mend(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    entry = model("m", b"weights")
    manifest = await release(who.home, entry, files=[b"weights"])
    metadata(who.home)
    who.under_systemd()
    who.status = running(
        release={"digest": "x", "version": 3, "grace_left": 3000},
        models=[{"name": "m", "digest": entry.sha256, "network": "none"}],
    )
    report = examine.examine(who.site())
    bad = [check for check in report.checks if check.result in (Result.WARN, Result.FAIL)]
    assert bad == []
    assert said(report.checks)["identity"] == "ok"
    assert manifest.version == 3
    # What is asked of systemd is asked by root, before root is given up.
    asked = {tuple(one) for one in who.machine.ran if one[0] in ("systemctl", "timedatectl")}
    assert asked - set(RUNS) == {("systemctl", "--version")}


def test_an_empty_home_without_systemd(tmp_path: Path) -> None:
    report = examine.examine(patient(tmp_path / "home").site())
    results = said(report.checks)
    assert {name for name, result in results.items() if result == "fail"} == {"identity"}
    assert results["service"] == "skip"
    assert all(check.remedy for check in report.checks if check.result in ("warn", "fail"))


def test_a_missing_home_is_told_once(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.home.rmdir()
    report = examine.examine(who.site())
    failed = [check.name for check in report.checks if check.result is Result.FAIL]
    assert failed == ["home"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StorageError("the disk is gone"), "the disk is gone"),
        (PermissionError(13, "no", "/some/where"), "no permission to look: /some/where"),
        (ValueError(CANARY), "this check broke: ValueError at breaks:"),
    ],
)
def test_a_check_that_breaks_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def breaks(_: Site) -> Iterator[Check]:
        yield ok("first", "well")
        raise error

    def after(_: Site) -> Iterator[Check]:
        yield ok("after", "well")

    monkeypatch.setattr(examine, "STEPS", (("broken", breaks), ("after", after)))
    checks = examine.examine(patient(tmp_path / "home").site()).checks
    assert said(checks) == {"first": "ok", "broken": "fail", "after": "ok"}
    assert checks[1].detail.startswith(words)
    assert checks[1].remedy
    assert CANARY not in str(checks)


def test_every_check_has_its_line_in_the_guide() -> None:
    guide = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(examine.__file__).parent.glob("*.py")
    )
    names = set(re.findall(r'\b(?:ok|warn|fail|skip|tell)\(\s*"([a-z ]+)"', source))
    assert {"settings", "gpu memory", "offline grace", "worker socket"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in guide] == []
