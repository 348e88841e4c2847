"""Our packages on a system: nothing starts by itself, nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.installed import AGENT, HOME, INSIDE, Installed, binds
from exclave_testing.sandbox import BOOKS, Sandbox, diff

# Made by systemd or dpkg for themselves, whatever is installed; credential.secret is the host's
# own, made at the first use of systemd-creds by anybody, and may seal what is not ours.
OTHERS = (
    *BOOKS,
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/log/journal",
    "/var/log/dpkg.log",
    "/var/log/alternatives.log",
    "/root",
    "/srv",
    "/var/lib/exclave-coordinator",
    "/run",
    "/tmp",
    "/dev",
)


@pytest.fixture
def installed(bookworm: Path, packages: Path, tmp_path: Path) -> Iterator[Installed]:
    """A machine with a coordinator on it, and no agent yet."""
    with Sandbox(bookworm, "packages", tmp_path, binds=binds(packages), on_disk=True) as box:
        made = Installed(box)
        made.centre_up()
        yield made


def test_nothing_starts_before_it_is_enrolled_and_purge_leaves_nothing(
    installed: Installed,
) -> None:
    box = installed.box
    installed.release([f"fraud={INSIDE['fraud']}/model.onnx,runtime=onnx"])
    before = box.snapshot(exclude=OTHERS)
    journals = box.sh("ls /var/log/journal 2>/dev/null || true")

    installed.dpkg("exclave-agent", "exclave-runtime-cpu")
    for unit in (AGENT, "exclave-worker.socket", "exclave-upgrade.path"):
        shown = box.show(unit, "ActiveState", "UnitFileState")
        assert shown == {"ActiveState": "inactive", "UnitFileState": "disabled"}, unit
    box.run(["systemctl", "start", AGENT])
    shown = box.show(AGENT, "ActiveState", "ConditionResult")
    assert shown == {"ActiveState": "inactive", "ConditionResult": "no"}
    assert "not enrolled" in installed.agent("install", code=1)
    assert "exclave-agent-install" in box.sh("ls /usr/share/man/man1")
    assert "exclave-agent" in box.sh("ls /usr/share/bash-completion/completions").split()

    installed.agent("install", "--token-file", installed.token())
    override = "/etc/systemd/system/exclave-agent.service.d/override.conf"
    box.write_text(override, "[Service]\nMemoryMax=1G\n")
    box.sh("systemctl daemon-reload")
    installed.rollout()
    installed.wait_release()
    size = installed.status()["audit"]["size"]

    # Removed, and installed again: nobody has to enroll twice.
    box.run(["dpkg", "-r", "exclave-agent"], timeout=120)
    assert box.run(["pgrep", "exclave-agent"], code=None).returncode == 1
    assert box.path(f"{HOME}/identity/join.json").exists()
    assert box.path(override).exists()
    installed.dpkg("exclave-agent")
    installed.agent("install")
    assert installed.wait_release()["audit"]["size"] > size

    box.run(["dpkg", "-P", "exclave-agent", "exclave-runtime-cpu"], timeout=120)
    found = diff(before, box.snapshot(exclude=OTHERS))
    assert not found, str(found)
    assert box.sh("ls /var/log/journal 2>/dev/null || true") == journals
    assert box.run(["id", "exclave"], code=None).returncode != 0
    assert box.run(["id", "exclave-worker"], code=None).returncode != 0
    assert box.sh("ls /run | grep exclave || true").strip() == ""
    assert box.sh("systemctl list-units --all --no-legend '*exclave*' | grep -v coordinator || true"
                  ).strip() == ""  # fmt: skip


def test_an_upgrade_by_hand_restarts_what_runs_and_only_that(installed: Installed) -> None:
    box = installed.box
    installed.dpkg("exclave-agent")
    installed.dpkg("exclave-agent")  # the same again is an upgrade to dpkg
    assert box.show(AGENT, "ActiveState")["ActiveState"] == "inactive"
    installed.agent("install", "--token-file", installed.token())
    pid = installed.main_pid()
    installed.dpkg("exclave-agent")
    assert installed.main_pid() not in (0, pid)
    assert installed.status()["coordinator"]["state"] in ("connecting", "connected")
