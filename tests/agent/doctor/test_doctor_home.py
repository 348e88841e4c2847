"""Settings and home: valid, private, and the service's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.doctor import home
from exclave_agent.doctor.machine import Stat, User
from exclave_testing.doctor import Patient, enrolled, patient, said


def test_settings_that_are_wrong_are_a_finding(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.settings_error = "agent.toml sets the unknown key 'lisen'"
    (check,) = home.settings(who.site())
    assert (check.result, check.detail) == ("fail", who.settings_error)
    who.settings_error, who.sources = "", {"listen": "EXCLAVE_LISTEN"}
    (check,) = home.settings(who.site())
    assert check.detail == "valid; set: listen (EXCLAVE_LISTEN)"


def test_a_home_that_others_may_enter(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.home.chmod(0o750)
    (check,) = home.home(who.site())
    assert check.result == "fail"
    assert "mode 750" in check.detail
    assert check.remedy == f"chmod 700 {who.home}"


def test_a_file_is_no_home(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.home.rmdir()
    who.home.write_text("")
    (check,) = home.home(who.site())
    assert "is not a folder" in check.detail


def _service_home(tmp_path: Path, owner: int) -> Patient:
    who = patient(tmp_path / "home")
    who.home = DEFAULT_HOME
    who.under_systemd()
    who.machine.users["exclave"] = User("exclave", 990, frozenset({990}))
    who.machine.stats[str(DEFAULT_HOME)] = Stat(0o40700, owner, owner, 0)
    return who


def test_the_services_home_is_its_users(tmp_path: Path) -> None:
    (check,) = home.home(_service_home(tmp_path, 990).site())
    assert (check.result, check.detail) == ("ok", "/var/lib/exclave, mode 700, of exclave")
    (check,) = home.home(_service_home(tmp_path, 0).site())
    assert check.result == "fail"
    assert "of root, and the service runs as exclave" in check.detail
    assert "chown -R exclave: /var/lib/exclave" in check.remedy


async def test_files_that_root_left_in_it(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    assert said(list(home.home(who.site()))) == {"home": "ok"}
    cert = who.home / "identity" / "cert.pem"
    cert.chmod(0o644)
    who.machine.stats[str(who.home / "identity" / "key.pem")] = Stat(
        0o100600, os.geteuid() + 1, 0, 9
    )
    checks = list(home.home(who.site()))
    assert said(checks) == {"home": "ok", "home files": "fail"}
    assert "identity/key.pem" in checks[1].detail
    assert "identity/cert.pem" in checks[2].detail


@pytest.mark.parametrize("name", ["exclave", "another"])
def test_any_other_home_is_its_owners_business(tmp_path: Path, name: str) -> None:
    who = patient(tmp_path / "home")
    who.under_systemd(service={"User": name})
    assert said(list(home.home(who.site()))) == {"home": "ok"}
