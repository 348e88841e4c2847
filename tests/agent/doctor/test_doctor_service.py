"""What systemd says of our units; the texts are as systemd 252 prints them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from exclave_agent.doctor import properties, service
from exclave_agent.doctor.properties import Kind, Rule, weaker
from exclave_agent.doctor.report import Check
from exclave_testing.doctor import SHOWN_SERVICE, SHOWN_WORKER, Patient, patient, said
from exclave_testing.processes import ROOT

UNITS = ROOT / "packaging" / "systemd"
SITE = "/etc/systemd/system/exclave-agent.service.d/site.conf"


def under(tmp_path: Path, **units: Mapping[str, str]) -> Patient:
    who = patient(tmp_path / "home")
    who.under_systemd(**units)
    return who


def test_without_systemd_everything_is_skipped_with_the_reason(tmp_path: Path) -> None:
    site = patient(tmp_path / "home").site()
    for step in (service.unit, service.hardening, service.socket):
        (check,) = step(site)
        assert (check.result, check.detail) == ("skip", "systemd does not run this machine")


def test_without_the_package_too(tmp_path: Path) -> None:
    who = under(tmp_path, service={"LoadState": "not-found"})
    (check,) = service.unit(who.site())
    assert (check.result, check.detail) == ("skip", "exclave-agent.service is not installed")


@pytest.mark.parametrize(
    ("changes", "results", "words"),
    [
        ({}, {"service": "ok"}, "active since"),
        ({"UnitFileState": "disabled"}, {"service": "warn"}, "disabled: it does not start"),
        ({"UnitFileState": "masked"}, {"service": "fail"}, "masked"),
        ({"ActiveState": "inactive"}, {"service": "warn"}, "inactive"),
        (
            {"ActiveState": "inactive", "ConditionResult": "no"},
            {"service": "warn"},
            "a condition of the unit does not hold",
        ),
        (
            {"ActiveState": "failed", "Result": "watchdog", "ExecMainStatus": "6"},
            {"service": "fail"},
            "failed (watchdog, status 6)",
        ),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, {"service": "warn"}, "auto-"),
        ({"NRestarts": "4"}, {"service": "ok", "restarts": "warn"}, "4 times"),
        ({"WatchdogUSec": "0"}, {"service": "ok", "watchdog": "warn"}, "off"),
        ({"NeedDaemonReload": "yes"}, {"service": "warn"}, "changed since"),
    ],
)
def test_how_the_unit_fares(
    tmp_path: Path, changes: dict[str, str], results: dict[str, str], words: str
) -> None:
    checks = list(service.unit(under(tmp_path, service=changes).site()))
    assert said(checks) == results
    assert words in str(checks)


def test_directives_that_this_systemd_does_not_know_are_told_once(tmp_path: Path) -> None:
    drop_in = "/etc/systemd/system/exclave-agent.service.d/10-systemd-254.conf"
    who = under(tmp_path, service={"DropInPaths": drop_in})
    who.machine.files[SHOWN_SERVICE["FragmentPath"]] = b"[Service]\nSocketBindDeny=any\n"
    who.machine.files[drop_in] = b"[Service]\nRestartSteps=6\nRestartMaxDelaySec=5min\n"
    check = next(check for check in service.unit(who.site()) if check.name == "systemd")
    assert check.result == "ok"
    assert "252 passes over RestartSteps (254), RestartMaxDelaySec (254), SocketBindDeny (BPF)" in (
        check.detail
    )
    newer = {"DropInPaths": drop_in, "RestartSteps": "6", "RestartMaxDelayUSec": "5min"}
    who.under_systemd(service=newer)
    who.machine.commands["systemctl --version"] = "systemd 257 (257.13)\n+BPF_FRAMEWORK\n"
    assert "systemd" not in said(list(service.unit(who.site())))


# --- hardening ----------------------------------------------------------------------------


def hardening(who: Patient) -> dict[str, Check]:
    return {check.name: check for check in service.hardening(who.site())}


def test_units_as_shipped(tmp_path: Path) -> None:
    checks = hardening(under(tmp_path))
    assert {name: check.result for name, check in checks.items()} == {
        "hardening": "ok",
        "worker hardening": "ok",
    }


def test_a_drop_in_that_weakens_is_named_with_what_it_weakens(tmp_path: Path) -> None:
    other = "/etc/systemd/system/exclave-agent.service.d/memory.conf"
    changes = {"NoNewPrivileges": "no", "ProtectSystem": "full", "DropInPaths": f"{other} {SITE}"}
    who = under(tmp_path, service=changes)
    who.machine.files[SITE] = b"[Service]\n NoNewPrivileges = no\nProtectSystem=full\n"
    who.machine.files[other] = b"[Service]\nMemoryMax=1G\n# NoNewPrivileges=no\n"
    check = hardening(who)["hardening"]
    assert check.result == "warn"
    assert "NoNewPrivileges=no (ships yes); ProtectSystem=full (ships strict)" in check.detail
    assert check.detail.endswith(f"set in {SITE}")
    assert check.remedy


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("read mount write bpf", "SystemCallFilter admits bpf mount (ships a list without"),
        ("~", "SystemCallFilter is no list of what is admitted"),
    ],
)
def test_system_calls_are_named(tmp_path: Path, value: str, words: str) -> None:
    check = hardening(under(tmp_path, service={"SystemCallFilter": value}))["hardening"]
    assert words in check.detail


def test_a_unit_file_that_someone_edited(tmp_path: Path) -> None:
    check = hardening(under(tmp_path, worker={"PrivateNetwork": "no"}))["worker hardening"]
    assert "PrivateNetwork=no (ships yes); set in no drop-in" in check.detail
    assert "reinstall" in check.remedy


def test_what_the_gpu_drop_in_takes_is_expected(tmp_path: Path) -> None:
    gpu = {
        "PrivateDevices": "no",
        "MemoryDenyWriteExecute": "no",
        "DeviceAllow": "char-nvidia rw",
        "DropInPaths": "/etc/systemd/system/exclave-worker@.service.d/20-gpu.conf",
    }
    check = hardening(under(tmp_path, worker=gpu))["worker hardening"]
    assert check.result == "ok"
    assert "PrivateDevices, MemoryDenyWriteExecute is off for the GPU" in check.detail
    # Never for the agent, and not with every device open.
    assert hardening(under(tmp_path, service=gpu))["hardening"].result == "warn"
    open_ = {**gpu, "DevicePolicy": "auto"}
    assert hardening(under(tmp_path, worker=open_))["worker hardening"].result == "warn"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ProtectSystem", "strict", False),
        ("ProtectSystem", "full", True),
        ("ProtectHome", "tmpfs", True),
        ("PrivateTmp", "disconnected", False),  # a newer systemd's, and stricter
        ("CapabilityBoundingSet", "cap_net_admin", True),
        ("RestrictAddressFamilies", "AF_INET AF_UNIX", False),
        ("RestrictAddressFamilies", "AF_INET AF_PACKET", True),
        ("RestrictAddressFamilies", "~AF_PACKET", True),
        ("RestrictAddressFamilies", "~", True),
        ("SystemCallArchitectures", "", True),
        ("SystemCallFilter", "read write", False),
        ("SystemCallFilter", "read write mount", True),
        ("SystemCallFilter", "~mount", True),
        ("SystemCallFilter", "~", True),
        ("NoExecPaths", "/", True),
        ("LimitCORE", "infinity", True),
        ("UMask", "0027", True),
        ("UMask", "0177", False),
        ("UMask", "", True),
        ("MemoryMax", "infinity", True),
        ("MemoryMax", "1", False),
        ("DevicePolicy", "strict", False),
        ("KeyringMode", "inherit", True),
    ],
)
def test_what_counts_as_weaker(name: str, value: str, expected: bool) -> None:
    (rule,) = (rule for rule in properties.AGENT if rule.name == name)
    assert weaker(rule, value) is expected


def test_nothing_that_may_hold_a_secret_is_asked_for() -> None:
    assert not {"Environment", "EnvironmentFiles", "ExecStart", "SetCredential"} & set(
        properties.SHOWN
    )


# --- the table and the package ------------------------------------------------------------

# What `systemctl show` makes of a value as it stands in a unit file.
_PRINTED = {"IPAddressDeny": {"any": "::/0 0.0.0.0/0"}}


def _written(unit: str, name: str) -> str | None:
    text = (UNITS / "system" / unit).read_text(encoding="utf-8")
    values: list[str] = re.findall(rf"(?m)^{name}=(.*)$", text)
    if not values:
        return None
    return _PRINTED.get(name, {}).get(values[-1], values[-1])


@pytest.mark.parametrize(
    ("unit", "rule"),
    [
        (unit, rule)
        for unit, rules in (
            ("exclave-agent.service", properties.AGENT),
            ("exclave-worker@.service", properties.WORKER),
        )
        for rule in rules
    ],
    ids=lambda one: one.name if isinstance(one, Rule) else str(one),
)
def test_the_table_says_what_the_package_ships(unit: str, rule: Rule) -> None:
    value = _written(unit, rule.name)
    assert value is not None, f"{unit} does not set {rule.name}"
    if rule.kind not in (Kind.CALLS, Kind.BOUNDED):
        assert set(value.split()) == set(rule.shipped.split())
        assert not weaker(rule, value)


@pytest.mark.parametrize("unit", ["exclave-agent.service", "exclave-worker@.service"])
def test_every_wall_that_the_package_ships_is_in_the_table(unit: str) -> None:
    text = (UNITS / "system" / unit).read_text(encoding="utf-8")
    walls = re.findall(r"(?m)^((?:Protect|Private|Restrict|NoNew|Lock|MemoryDeny)\w+)=", text)
    rules = properties.AGENT if "agent" in unit else properties.WORKER
    names = {rule.name for rule in rules}
    # Not about protection: how it starts anew.
    assert set(walls) - names <= {"RestartPreventExitStatus"}


# --- the workers' socket ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "result", "words"),
    [
        ({}, "ok", "2 workers started, 2 now"),
        ({"NRefused": "3"}, "warn", "3 refused"),
        ({"ActiveState": "inactive"}, "fail", "no model can be loaded"),
        ({"LoadState": "not-found"}, "skip", "not installed"),
    ],
)
def test_the_workers_socket(
    tmp_path: Path, changes: dict[str, str], result: str, words: str
) -> None:
    (check,) = service.socket(under(tmp_path, socket=changes).site())
    assert check.result == result
    assert words in check.detail


def test_the_fixtures_are_the_package() -> None:
    assert SHOWN_SERVICE["RestrictNamespaces"] == SHOWN_WORKER["RestrictNamespaces"] == "yes"
