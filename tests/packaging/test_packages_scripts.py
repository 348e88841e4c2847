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
    """A booted Debian that sees the built packages; each test leaves it as it was."""
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


@pytest.fixture
def package(request: pytest.FixtureRequest, box: Sandbox) -> Iterator[Package]:
    """Installed, and its service running: enabled, with a stand-in for its program."""
    one: Package = request.param
    dpkg(box, "-i", one)
    unit = SERVICE[one.name]
    box.sh(f"mkdir -p /etc/systemd/system/{unit}.d")
    box.write_text(f"/etc/systemd/system/{unit}.d/stand-in.conf", STAND_IN)
    box.sh(f"systemctl daemon-reload; systemctl enable --now --quiet {unit}")
    box.wait_unit(unit, "active")
    yield one
    dpkg(box, "--purge", one)


services = pytest.mark.parametrize(
    "package", [AGENT, COORDINATOR], ids=lambda one: one.name, indirect=True
)


@pytest.mark.parametrize("package_", [AGENT, COORDINATOR], ids=lambda one: one.name)
def test_installing_makes_users_and_starts_nothing(box: Sandbox, package_: Package) -> None:
    before = box.snapshot(BOOKS)
    dpkg(box, "-i", package_)
    units = box.sh("systemctl list-unit-files --no-legend 'exclave-*'")
    assert "disabled" in units
    assert "enabled" not in {line.split()[1] for line in units.splitlines()}
    assert box.sh("systemctl list-units --no-legend --state=active 'exclave-*'") == ""
    users = {"exclave", "exclave-worker"} if package_ is AGENT else {"exclave-coordinator"}
    for user in users:
        box.run(["getent", "passwd", user])
    dpkg(box, "--purge", package_)
    assert not diff(before, box.snapshot(BOOKS))


@services
@pytest.mark.parametrize("arguments", [("configure", "0.0.9"), ("2",)], ids=["deb", "rpm"])
def test_an_upgrade_restarts_what_runs(
    box: Sandbox, package: Package, arguments: tuple[str, ...]
) -> None:
    unit = SERVICE[package.name]
    before = pid(box, unit)
    script(box, package, "prerm", "upgrade" if len(arguments) == 2 else "1", "9.9.9")
    assert pid(box, unit) == before, "an upgrade stops nothing before"
    script(box, package, "postinst", *arguments)
    assert pid(box, unit) not in (before, "0")


@services
def test_an_upgrade_does_not_start_what_was_stopped(box: Sandbox, package: Package) -> None:
    box.sh(f"systemctl stop {SERVICE[package.name]}")
    script(box, package, "postinst", "configure", "0.0.9")
    assert pid(box, SERVICE[package.name]) == "0"


@services
@pytest.mark.parametrize(
    "arguments", [("configure", ""), ("1",), ("abort-upgrade", "9"), ("abort-remove",)]
)
def test_anything_but_an_upgrade_restarts_nothing(
    box: Sandbox, package: Package, arguments: tuple[str, ...]
) -> None:
    before = pid(box, SERVICE[package.name])
    script(box, package, "postinst", *arguments)
    assert pid(box, SERVICE[package.name]) == before


@services
def test_a_service_that_does_not_come_back_is_told_and_does_not_break_dpkg(
    box: Sandbox, package: Package
) -> None:
    unit = SERVICE[package.name]
    box.write_text(
        f"/etc/systemd/system/{unit}.d/worse.conf", "[Service]\nExecStart=\nExecStart=/nowhere\n"
    )
    said = script(box, package, "postinst", "configure", "0.0.9")
    assert f"{unit} did not come back" in said


@pytest.mark.parametrize("package", [AGENT], ids=["exclave-agent"], indirect=True)
def test_our_own_upgrade_restarts_by_itself(box: Sandbox, package: Package) -> None:
    dpkg(box, "-i", RUNTIME_CPU)
    unit = SERVICE[package.name]
    before = pid(box, unit)
    box.sh(f"mkdir -p /run/exclave-upgrade; touch {RUNNING}")
    script(box, package, "postinst", "configure", "0.0.9")
    script(box, RUNTIME_CPU, "postinst", "configure", "0.0.9")
    assert pid(box, unit) == before
    box.sh(f"rm {RUNNING}")
    script(box, RUNTIME_CPU, "postinst", "configure", "")
    assert pid(box, unit) == before, "a first runtime changes nothing that is loaded"
    script(box, RUNTIME_CPU, "postinst", "2")
    assert pid(box, unit) not in (before, "0")
    dpkg(box, "--purge", RUNTIME_CPU)


@pytest.mark.parametrize("package", [AGENT], ids=["exclave-agent"], indirect=True)
def test_a_socket_is_restarted_when_its_unit_changed(box: Sandbox, package: Package) -> None:
    box.sh("systemctl enable --now --quiet exclave-worker.socket")
    since = box.show("exclave-worker.socket", "ActiveEnterTimestampMonotonic")
    script(box, package, "postinst", "configure", "0.0.9")
    assert box.show("exclave-worker.socket", "ActiveEnterTimestampMonotonic") == since
    box.sh("echo '# changed' >>/usr/lib/systemd/system/exclave-worker.socket")
    script(box, package, "postinst", "configure", "0.0.9")
    assert box.show("exclave-worker.socket", "ActiveEnterTimestampMonotonic") != since
    assert box.show("exclave-worker.socket", "ActiveState")["ActiveState"] == "active"


@services
@pytest.mark.parametrize("family", ["deb", "rpm"])
def test_removal_stops_disables_and_keeps_the_state(
    box: Sandbox, package: Package, family: str
) -> None:
    unit = SERVICE[package.name]
    state = "/var/lib/exclave" if package is AGENT else "/var/lib/exclave-coordinator"
    box.sh(f"touch {state}/kept; mkdir -p /etc/exclave; touch /etc/exclave/seal.key.cred")
    if family == "deb":
        dpkg(box, "-r", package)
    else:
        # RPM has no purge: erased, state and settings stay.
        script(box, package, "prerm", "0")
        script(box, package, "postrm", "0")
    assert box.run(["systemctl", "is-active", unit], code=None).stdout.strip() == "inactive"
    box.sh("! ls /etc/systemd/system/*.wants/exclave-*")
    box.sh(f"test -e {state}/kept; test -e /etc/exclave/seal.key.cred")
    box.sh("rm -rf /etc/exclave/seal.key.cred; test -d /opt")


def test_purging_leaves_nothing_of_an_agent_that_has_lived(box: Sandbox) -> None:
    before = box.snapshot(BOOKS)
    dpkg(box, "-i", AGENT, RUNTIME_CPU, CLI)
    unit = SERVICE[AGENT.name]
    box.sh(f"mkdir -p /etc/systemd/system/{unit}.d /etc/systemd/system/exclave-worker@.service.d")
    box.write_text(f"/etc/systemd/system/{unit}.d/stand-in.conf", STAND_IN)
    box.write_text("/etc/systemd/system/exclave-worker@.service.d/20-gpu.conf", "[Service]\n")
    box.write_text("/etc/sysusers.d/exclave-gpu.conf", "m exclave-worker video\n")
    box.sh(
        "systemctl daemon-reload; systemd-sysusers;"
        f"systemctl enable --now --quiet {unit} exclave-worker.socket exclave-upgrade.path;"
        "systemctl set-property exclave-agent.service MemoryMax=1G;"
        "mkdir -p /var/lib/exclave-upgrade /opt/exclave/.agent-upgrading/runtime;"
        "touch /var/lib/exclave/identity /var/lib/exclave-upgrade/state;"
        "echo secret >/etc/exclave/seal.key.cred; echo '# x' >>/etc/exclave/agent.toml"
    )
    box.wait_unit(unit, "active")
    box.sh("journalctl --namespace=exclave --sync; ls -d /var/log/journal/*.exclave")
    dpkg(box, "--purge", AGENT, RUNTIME_CPU, CLI)
    left = diff(before, box.snapshot(BOOKS))
    assert not left, str(left)
    units = box.sh("systemctl list-units --all --no-legend 'exclave*' '*@exclave*'")
    assert units == "", units
    assert box.run(["getent", "passwd", "exclave", "exclave-worker"], code=None).stdout == ""


def test_purging_the_agent_leaves_a_coordinator_beside_it_alone(box: Sandbox) -> None:
    dpkg(box, "-i", AGENT, COORDINATOR)
    box.sh(
        "install -d -o exclave-coordinator /var/lib/exclave-coordinator;"
        "touch /var/lib/exclave-coordinator/kept"
    )
    dpkg(box, "--purge", AGENT)
    box.sh("exclave-coordinator --version; test -e /var/lib/exclave-coordinator/kept")
    box.run(["getent", "passwd", "exclave-coordinator"])
    dpkg(box, "--purge", COORDINATOR)
    box.sh("test ! -e /var/lib/exclave-coordinator; test ! -e /opt/exclave; test -d /opt")


def test_the_scripts_work_where_no_systemd_runs(box: Sandbox) -> None:
    """As in a chroot, or while an image is made: /run/systemd/system is not there."""
    hide = "mount -t tmpfs none /run/systemd &&"
    install = f"dpkg --force-unsafe-io -i {INSIDE}/exclave-agent_0.1.0_amd64.deb"
    box.sh(f"unshare -m sh -euc '{hide} {install} && getent passwd exclave'", timeout=120)
    box.sh(f"unshare -m sh -euc '{hide} dpkg --purge exclave-agent'", timeout=120)
    assert box.run(["getent", "passwd", "exclave"], code=None).stdout == ""
    assert not Path(box.path("/opt/exclave")).exists()
