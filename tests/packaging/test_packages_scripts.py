"""What the packages' scripts do to a running system, called as dpkg and as rpm call them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.processes import ROOT, run
from exclave_testing.sandbox import BOOKS, Sandbox, Unavailable, debian_tree, diff, why_not
from packages import tools
from packages.catalogue import AGENT, CLI, COORDINATOR, RUNTIME_CPU, Package

OUT = ROOT / "build" / "packages"
BUILD_SECONDS = 900
INSIDE = "/srv/packages"
SERVICE = {AGENT.name: "exclave-agent.service", COORDINATOR.name: "exclave-coordinator.service"}
# Stands for the real program, so that nothing needs to be enrolled.
STAND_IN = """\
[Unit]
ConditionPathExists=
[Service]
Type=exec
ExecStart=
ExecStart=/bin/sh -c 'echo up; exec sleep infinity'
WatchdogSec=0
NoExecPaths=
"""
RUNNING = "/run/exclave-upgrade/running"

pytestmark = [
    pytest.mark.skipif(tools.unsuitable() != "", reason=tools.unsuitable() or "-"),
    pytest.mark.timeout(BUILD_SECONDS),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A booted Debian that sees the built packages."""
    reason = why_not()
    if reason is None:
        try:
            tree = debian_tree("bookworm")
        except Unavailable as error:
            reason = str(error)
    if reason is not None:
        pytest.skip(f"no sandbox here: {reason}")
    build = ROOT / "packaging" / "packages" / "build.py"
    run([sys.executable, build], timeout=BUILD_SECONDS)
    with Sandbox(tree, "scripts", tmp_path_factory.mktemp("box"), binds={OUT: INSIDE}) as booted:
        yield booted


def dpkg(box: Sandbox, *words: str | Package) -> str:
    """Run dpkg; a package stands for its file after -i, for its name otherwise."""
    install = words[0] == "-i"
    plain = [
        word
        if isinstance(word, str)
        else f"{INSIDE}/{word.name}_0.1.0_amd64.deb"
        if install
        else word.name
        for word in words
    ]
    return box.run(["dpkg", "--force-unsafe-io", *plain], timeout=120).stdout


def script(box: Sandbox, package: Package, name: str, *arguments: str) -> str:
    """Run a script that dpkg has kept of an installed package."""
    done = box.run(["sh", f"/var/lib/dpkg/info/{package.name}.{name}", *arguments])
    return done.stdout + done.stderr


def pid(box: Sandbox, unit: str) -> str:
    return box.show(unit, "MainPID")["MainPID"]


def stand_in(box: Sandbox, package: Package) -> None:
    """Have an installed package's service run, with a stand-in for its program."""
    unit = SERVICE[package.name]
    box.sh(f"mkdir -p /etc/systemd/system/{unit}.d")
    box.write_text(f"/etc/systemd/system/{unit}.d/stand-in.conf", STAND_IN)
    box.sh(f"systemctl daemon-reload; systemctl enable --now --quiet {unit}")
    box.wait_unit(unit, "active")


# --- a package's whole life: these leave the box as they found it -----------------------------


def test_installing_makes_users_and_starts_nothing(box: Sandbox) -> None:
    before = box.snapshot(BOOKS)
    dpkg(box, "-i", AGENT, COORDINATOR)
    units = box.sh("systemctl list-unit-files --no-legend 'exclave-*'").splitlines()
    assert {line.split()[1] for line in units} == {"disabled", "static"}
    assert box.sh("systemctl list-units --no-legend --state=active 'exclave-*'") == ""
    for user in ("exclave", "exclave-worker", "exclave-coordinator"):
        box.run(["getent", "passwd", user])
    dpkg(box, "--purge", AGENT)
    box.sh("exclave-coordinator --version; getent passwd exclave-coordinator")
    dpkg(box, "--purge", COORDINATOR)
    left = diff(before, box.snapshot(BOOKS))
    assert not left, str(left)


def test_removal_keeps_what_has_grown_and_purging_leaves_nothing(box: Sandbox) -> None:
    before = box.snapshot(BOOKS)
    dpkg(box, "-i", AGENT, RUNTIME_CPU, CLI)
    box.sh("mkdir -p /etc/sysusers.d /etc/systemd/system/exclave-worker@.service.d")
    box.write_text("/etc/systemd/system/exclave-worker@.service.d/20-gpu.conf", "[Service]\n")
    box.write_text("/etc/sysusers.d/exclave-gpu.conf", "m exclave-worker video\n")
    stand_in(box, AGENT)
    box.sh(
        "systemd-sysusers;"
        "systemctl enable --now --quiet exclave-worker.socket exclave-upgrade.path;"
        "systemctl set-property exclave-agent.service MemoryMax=1G;"
        "mkdir -p /var/lib/exclave-upgrade /opt/exclave/.agent-upgrading/runtime;"
        "touch /var/lib/exclave/identity /var/lib/exclave-upgrade/state;"
        "echo secret >/etc/exclave/seal.key.cred; echo '# x' >>/etc/exclave/agent.toml;"
        "journalctl --namespace=exclave --sync; ls -d /var/log/journal/*.exclave"
    )
    dpkg(box, "-r", AGENT)
    assert box.sh("systemctl list-units --no-legend --state=active 'exclave-*'") == ""
    box.sh("! ls /etc/systemd/system/*.wants/exclave-*; test ! -e /opt/exclave/.agent-upgrading")
    box.sh("ls /var/lib/exclave/identity /etc/exclave/seal.key.cred /etc/exclave/agent.toml")
    dpkg(box, "--purge", AGENT, RUNTIME_CPU, CLI)
    left = diff(before, box.snapshot(BOOKS))
    assert not left, str(left)
    units = box.sh("systemctl list-units --all --no-legend 'exclave*' '*@exclave*'")
    assert units == "", units
    assert box.run(["getent", "passwd", "exclave", "exclave-worker"], code=None).stdout == ""


def test_the_scripts_work_where_no_systemd_runs(box: Sandbox) -> None:
    """As in a chroot, or while an image is made: /run/systemd/system is not there."""
    hide = "mount -t tmpfs none /run/systemd &&"
    install = f"dpkg --force-unsafe-io -i {INSIDE}/exclave-agent_0.1.0_amd64.deb"
    box.sh(f"unshare -m sh -euc '{hide} {install} && getent passwd exclave'", timeout=120)
    box.sh(f"unshare -m sh -euc '{hide} dpkg --purge exclave-agent'", timeout=120)
    assert box.run(["getent", "passwd", "exclave"], code=None).stdout == ""
    assert not Path(box.path("/opt/exclave")).exists()


# --- single scripts, on packages whose services run -----------------------------------------


@pytest.fixture(scope="module")
def installed(box: Sandbox) -> Sandbox:
    """The box with everything installed; it stays so."""
    dpkg(box, "-i", AGENT, COORDINATOR, RUNTIME_CPU)
    return box


@pytest.fixture
def living(installed: Sandbox) -> Sandbox:
    """Both services run, whatever the test before has done to them."""
    for package in (AGENT, COORDINATOR):
        stand_in(installed, package)
    return installed


services = pytest.mark.parametrize("package", [AGENT, COORDINATOR], ids=lambda one: one.name)


@services
@pytest.mark.parametrize(
    ("before", "after"),
    [(("upgrade", "9.9.9"), ("configure", "0.0.9")), (("1",), ("2",))],
    ids=["deb", "rpm"],
)
def test_an_upgrade_restarts_what_runs(
    living: Sandbox, package: Package, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    unit = SERVICE[package.name]
    first = pid(living, unit)
    script(living, package, "prerm", *before)
    script(living, package, "postrm", *before)
    assert pid(living, unit) == first, "an upgrade stops nothing before"
    script(living, package, "postinst", *after)
    assert pid(living, unit) not in (first, "0")


@services
def test_an_upgrade_does_not_start_what_was_stopped(living: Sandbox, package: Package) -> None:
    living.sh(f"systemctl stop {SERVICE[package.name]}")
    script(living, package, "postinst", "configure", "0.0.9")
    assert pid(living, SERVICE[package.name]) == "0"


@services
@pytest.mark.parametrize(
    "arguments",
    [("configure", ""), ("1",), ("abort-upgrade", "9"), ("abort-remove",)],
    ids=lambda words: words[0],
)
def test_anything_but_an_upgrade_restarts_nothing(
    living: Sandbox, package: Package, arguments: tuple[str, ...]
) -> None:
    before = pid(living, SERVICE[package.name])
    script(living, package, "postinst", *arguments)
    assert pid(living, SERVICE[package.name]) == before


@services
def test_a_service_that_does_not_come_back_is_told_and_does_not_break_dpkg(
    living: Sandbox, package: Package
) -> None:
    unit = SERVICE[package.name]
    worse = f"/etc/systemd/system/{unit}.d/worse.conf"
    living.write_text(worse, "[Service]\nExecStart=\nExecStart=/nowhere\n")
    said = script(living, package, "postinst", "configure", "0.0.9")
    living.sh(f"rm {worse}; systemctl stop {unit}")
    assert f"{unit} did not come back" in said


def test_our_own_upgrade_restarts_by_itself(living: Sandbox) -> None:
    unit = SERVICE[AGENT.name]
    before = pid(living, unit)
    living.sh(f"mkdir -p /run/exclave-upgrade; touch {RUNNING}")
    script(living, AGENT, "postinst", "configure", "0.0.9")
    script(living, RUNTIME_CPU, "postinst", "configure", "0.0.9")
    living.sh(f"rm {RUNNING}")
    assert pid(living, unit) == before


def test_a_new_runtime_is_taken_up_by_an_agent_that_runs(living: Sandbox) -> None:
    unit = SERVICE[AGENT.name]
    before = pid(living, unit)
    script(living, RUNTIME_CPU, "postinst", "configure", "")
    assert pid(living, unit) == before, "a first runtime changes nothing that is loaded"
    script(living, RUNTIME_CPU, "postinst", "2")
    assert pid(living, unit) not in (before, "0")
    living.sh(f"systemctl stop {unit}")
    said = script(living, RUNTIME_CPU, "postinst", "configure", "0.0.9")
    assert pid(living, unit) == "0"
    assert "did not come back" not in said


def test_a_socket_is_restarted_only_when_its_unit_has_changed(living: Sandbox) -> None:
    socket, since = "exclave-worker.socket", "ActiveEnterTimestampMonotonic"
    living.sh(f"systemctl enable --now --quiet {socket}")
    before = living.show(socket, since)
    script(living, AGENT, "postinst", "configure", "0.0.9")
    assert living.show(socket, since) == before
    living.sh(f"echo '# changed' >>/usr/lib/systemd/system/{socket}")
    script(living, AGENT, "postinst", "configure", "0.0.9")
    assert living.show(socket, since) != before
    assert living.show(socket, "ActiveState")["ActiveState"] == "active"


@services
def test_an_rpm_that_is_erased_stops_disables_and_keeps_the_state(
    living: Sandbox, package: Package
) -> None:
    unit = SERVICE[package.name]
    home = "/var/lib/exclave" if package is AGENT else "/var/lib/exclave-coordinator"
    living.sh(f"touch {home}/kept")
    script(living, package, "prerm", "0")
    script(living, package, "postrm", "0")
    assert living.run(["systemctl", "is-active", unit], code=None).stdout.strip() == "inactive"
    assert living.run(["systemctl", "is-enabled", unit], code=None).stdout.strip() == "disabled"
    living.sh(f"test -e {home}/kept; test -d /etc/systemd/system/{unit}.d")
