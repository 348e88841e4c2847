"""Identity, clock, signed metadata: each thing that runs out, before and after it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.doctor import trust
from exclave_agent.sealing import Sealer
from exclave_testing.clock import START_NS, FakeClock
from exclave_testing.doctor import (
    Patient,
    enrolled,
    metadata,
    patient,
    release,
    running,
    said,
)

HOUR, DAY = 3600, 86_400


def at(who: Patient, seconds: float) -> Patient:
    """The same, so many seconds after START."""
    who.clock = FakeClock(START_NS + round(seconds * 1e9))
    return who


@pytest.mark.parametrize(
    ("after", "result", "words"),
    [
        (HOUR, "ok", "holds 23 h more"),
        (21 * HOUR, "ok", "holds 3 h more"),
        (21.7 * HOUR, "warn", "holds 2 h 18 min more"),  # less than a tenth of its life
        (22.5 * HOUR, "warn", "holds 1 h 30 min more"),
        (25 * HOUR, "fail", "ended 1 h ago"),
    ],
)
async def test_the_certificates_life(tmp_path: Path, after: float, result: str, words: str) -> None:
    who = at(patient(tmp_path / "home"), after)
    await enrolled(who.home)
    name, certificate = trust.identity(who.site())
    assert name.detail == "spiffe://example.org/tenant/acme/agent/edge-1"
    assert certificate.result == result
    assert words in certificate.detail


async def test_a_certificate_that_is_short_by_design(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home, ttl=HOUR)
    assert said(list(trust.identity(at(who, HOUR / 4).site())))["certificate"] == "ok"
    assert said(list(trust.identity(at(who, HOUR * 0.6).site())))["certificate"] == "warn"


async def test_keys_that_are_open_to_others(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    key = who.home / "identity" / "key.pem"
    key.chmod(0o644)
    name, certificate = trust.identity(who.site())
    assert (name.result, certificate.result) == ("fail", "ok")
    assert f"chmod 600 {key}" in name.detail


async def test_sealed_keys_without_the_credential(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    folder = who.home / "identity"
    sealer = Sealer(bytes(32))
    for name in ("key.pem", "audit.key"):
        (folder / name).write_bytes(sealer.seal(name, (folder / name).read_bytes()))
    identity, certificate = trust.identity(who.site())
    assert (identity.result, certificate.result) == ("fail", "ok")
    assert "is sealed" in identity.detail
    who.status = running()
    identity, certificate = trust.identity(who.site())
    assert (identity.result, certificate.result) == ("skip", "ok")
    assert "the running agent has them open" in identity.detail


# --- the clock ----------------------------------------------------------------------------


async def test_a_clock_before_the_certificate(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    (check,) = trust.clock(at(who, -30).site())
    assert check.result == "ok"
    (check,) = trust.clock(at(who, -DAY).site())
    assert (check.result, check.detail) == ("fail", "1 d before the certificate's start")


async def test_a_clock_behind_what_the_agent_has_seen(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await release(who.home, floor_ns=START_NS + 100 * 10**9)
    (check,) = trust.clock(who.site())
    assert check.result == "fail"
    assert "1 min 40 s behind" in check.detail
    assert said(list(trust.clock(at(who, 99).site()))) == {"clock": "ok"}


@pytest.mark.parametrize(("answer", "result"), [("no\n", "warn"), ("yes\n", "ok"), ("", "ok")])
def test_a_clock_that_nobody_keeps_right(tmp_path: Path, answer: str, result: str) -> None:
    who = patient(tmp_path / "home")
    who.under_systemd()
    who.machine.commands["timedatectl"] = answer
    (check,) = trust.clock(who.site())
    assert check.result == result


# --- signed metadata ----------------------------------------------------------------------


def _found(who: Patient) -> dict[str, str]:
    return {check.detail.split(" version")[0]: check.result for check in trust.metadata(who.site())}


def test_metadata_that_holds(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    assert said(list(trust.metadata(who.site()))) == {"release metadata": "skip"}
    metadata(who.home)
    (check,) = trust.metadata(who.site())
    assert check.result == "ok"
    assert "targets 1 until 2030-06-15 17:46 UTC" in check.detail


def test_what_people_must_sign_anew_is_told_two_weeks_ahead(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    metadata(who.home, targets_days=13)
    assert _found(who)["targets metadata"] == "warn"
    at(who, 14 * DAY)
    assert _found(who)["targets metadata"] == "fail"


@pytest.mark.parametrize(("runs", "result"), [(False, "warn"), (True, "fail")])
def test_what_the_coordinator_signs_daily(tmp_path: Path, runs: bool, result: str) -> None:
    who = at(patient(tmp_path / "home"), 2 * DAY)
    metadata(who.home)
    who.status = running() if runs else None
    found = _found(who)
    assert (found["timestamp metadata"], found["snapshot metadata"]) == (result, result)
    at(who, DAY - HOUR)
    assert _found(who)["timestamp metadata"] == "warn"


def test_metadata_that_is_damaged(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    metadata(who.home)
    (who.home / "tuf" / "metadata" / "snapshot.json").write_bytes(b'{"signed": {')
    broken = next(check for check in trust.metadata(who.site()) if check.result == "fail")
    assert broken.detail.startswith("snapshot.json")


@pytest.mark.parametrize(
    ("after", "result", "words"),
    [
        (60, "ok", "59 min of 1 h left"),
        (0.95 * HOUR, "warn", "3 min of 1 h left"),
        (2 * HOUR, "fail", "0 s of 1 h left"),
    ],
)
async def test_the_grace_without_the_coordinator(
    tmp_path: Path, after: float, result: str, words: str
) -> None:
    who = at(patient(tmp_path / "home"), after)
    await release(who.home, grace=HOUR)
    metadata(who.home)
    checks = {check.name: check for check in trust.metadata(who.site())}
    assert checks["offline grace"].result == result
    assert words in checks["offline grace"].detail
    # The running agent knows better than its database.
    who.status = running(release={"digest": "x", "version": 3, "grace_left": 1800})
    checks = {check.name: check for check in trust.metadata(who.site())}
    assert checks["offline grace"].detail == "30 min of 1 h left"
