"""dpkg and rpm on throw-away roots, their locks, and child processes that outlive what kills us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exclave_agent.upgrade import children
from exclave_agent.upgrade.children import ChildFailed, ask, work
from exclave_agent.upgrade.dpkg import Dpkg
from exclave_agent.upgrade.pace import SystemPace
from exclave_agent.upgrade.ports import Installed, InstallFailed, ManagerBusy, Stopped
from exclave_agent.upgrade.rpm import Rpm
from exclave_protocol.packages import AGENT
from exclave_testing.packages import RPMBUILD, deb, rpm
from exclave_testing.processes import wait_for

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg") is None or os.geteuid() != 0, reason="needs dpkg, and root to install"
)
needs_rpm = pytest.mark.skipif(
    RPMBUILD is None or os.geteuid() != 0, reason="needs rpmbuild, and root to install"
)
LOCK_SCRIPT = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pace() -> SystemPace:
    return SystemPace()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty dpkg root."""
    admin = tmp_path / "root/var/lib/dpkg"
    for folder in ("info", "updates", "triggers", "alternatives"):
        (admin / folder).mkdir(parents=True)
    (admin / "status").touch()
    (admin / "available").touch()
    return tmp_path / "root"


@pytest.fixture
def dpkg(root: Path, tmp_path: Path, pace: SystemPace) -> Dpkg:
    options = (f"--root={root}", "--force-not-root", "--force-bad-path")
    return Dpkg(tmp_path / "log", pace, admin=root / "var/lib/dpkg", options=options)


def built(folder: Path, version: str, **more: object) -> Path:
    path = folder / f"{version}.deb"
    files = {"/opt/x/version": version.encode(), "/opt/x/only-" + version: b""}
    path.write_bytes(deb(version, architecture="all", files=files, **more))  # type: ignore[arg-type]  # scripts
    return path


# --- dpkg ----------------------------------------------------------------------------------------


@needs_dpkg
def test_dpkg_goes_forward_and_back(dpkg: Dpkg, root: Path, tmp_path: Path) -> None:
    assert dpkg.installed(AGENT) is None
    old, new = built(tmp_path, "0.1.0"), built(tmp_path, "0.2.0")
    with dpkg.locked(5):
        dpkg.install(old)
        assert dpkg.installed(AGENT) == Installed("0.1.0", "all", whole=True)
        dpkg.install(new)
    assert dpkg.installed(AGENT) == Installed("0.2.0", "all", whole=True)
    assert not (root / "opt/x/only-0.1.0").exists()
    with dpkg.locked(5):
        dpkg.install(old)
        dpkg.repair()
    assert dpkg.installed(AGENT) == Installed("0.1.0", "all", whole=True)
    assert (root / "opt/x/version").read_text() == "0.1.0"


@needs_dpkg
def test_a_package_whose_dependency_is_missing_is_half_installed_and_replaced(
    dpkg: Dpkg, tmp_path: Path
) -> None:
    old = built(tmp_path, "0.1.0")
    broken = built(tmp_path, "0.2.0", fields="Depends: nowhere-to-be-found\n")
    with dpkg.locked(5):
        dpkg.install(old)
        with pytest.raises(InstallFailed, match="dpkg: error processing package exclave-agent"):
            dpkg.install(broken)
        assert dpkg.installed(AGENT) == Installed("0.2.0", "all", whole=False)
        with pytest.raises(InstallFailed):
            dpkg.repair()
        dpkg.install(old)
    assert dpkg.installed(AGENT) == Installed("0.1.0", "all", whole=True)


@needs_dpkg
def test_only_our_own_package_is_repaired(dpkg: Dpkg, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.deb"
    ours = built(tmp_path, "0.1.0")
    other.write_bytes(deb("1.0", name="other", architecture="all", files={"/opt/y": b""}))
    words = ["dpkg", f"--root={root}", "--force-bad-path", "--unpack"]
    subprocess.run([*words, str(other), str(ours)], check=True, capture_output=True)
    with dpkg.locked(5):
        dpkg.repair()
    assert dpkg.installed(AGENT) == Installed("0.1.0", "all", whole=True)
    assert dpkg.installed("other") == Installed("1.0", "all", whole=False)
    with dpkg.locked(5):
        dpkg.repair()  # nothing to do


@needs_dpkg
def test_a_file_that_is_no_package(dpkg: Dpkg, tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"no")
    with pytest.raises(InstallFailed, match="dpkg exited 1"):
        dpkg.install(tmp_path / "x.deb")


@needs_dpkg
def test_a_removed_package_is_not_installed(dpkg: Dpkg, root: Path, tmp_path: Path) -> None:
    with dpkg.locked(5):
        dpkg.install(built(tmp_path, "0.1.0"))
    words = ["dpkg", f"--root={root}", "--force-bad-path", "--remove", AGENT]
    subprocess.run(words, check=True, capture_output=True)
    assert dpkg.installed(AGENT) is None


@pytest.mark.parametrize("name", ["lock-frontend", "lock"])
def test_another_process_with_a_lock_is_waited_for(dpkg: Dpkg, root: Path, name: str) -> None:
    words = [sys.executable, "-c", LOCK_SCRIPT, root / "var/lib/dpkg" / name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ManagerBusy, match=f"{name} is locked"), dpkg.locked(0):
            pass
        threading.Timer(0.3, other.stdin.close).start()
        with dpkg.locked(20):
            assert other.wait(20) == 0


def test_our_own_lock_keeps_others_out(dpkg: Dpkg, root: Path) -> None:
    with dpkg.locked(5):
        words = [sys.executable, "-c", LOCK_SCRIPT, root / "var/lib/dpkg/lock-frontend"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as other:
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.5)
            other.kill()


def test_told_to_stop_nobody_waits_for_a_lock(dpkg: Dpkg, root: Path, pace: SystemPace) -> None:
    words = [sys.executable, "-c", LOCK_SCRIPT, root / "var/lib/dpkg/lock-frontend"]
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    hangup = signal.getsignal(signal.SIGHUP)
    pace.listen()
    try:
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with pytest.raises(Stopped), dpkg.locked(60):
                pass
            other.kill()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
        signal.signal(signal.SIGHUP, hangup)


# --- rpm -----------------------------------------------------------------------------------------


@needs_rpm
def test_rpm_goes_forward_and_back(tmp_path: Path, pace: SystemPace) -> None:
    root = tmp_path / "root"
    root.mkdir()
    manager = Rpm(tmp_path / "log", pace, options=(f"--root={root}",))
    assert manager.installed(AGENT) is None
    old, new = rpm(tmp_path / "a", "0.1.0-1"), rpm(tmp_path / "b", "0.2.0-1")
    with manager.locked(5):
        for file, version in ((old, "0.1.0-1"), (new, "0.2.0-1"), (old, "0.1.0-1")):
            manager.repair()
            manager.install(file)
            found = manager.installed(AGENT)
            assert found is not None
            assert (found.version, found.whole) == (version, True)
        manager.install(old)  # the same again, where it may be broken
    assert (root / "opt/x/version").read_text() == "0.1.0\n"
    with pytest.raises(InstallFailed, match="rpm exited"):
        manager.install(tmp_path / "log")


# --- children ------------------------------------------------------------------------------------


def test_what_a_child_says_last_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="sh exited 3: error: no room"):
        ask(["sh", "-c", "echo error: no room >&2; echo Errors were found >&2; exit 3"])
    with pytest.raises(ChildFailed, match="cannot be run"):
        ask(["/no/such/program"])
    with pytest.raises(ChildFailed, match="did not end within"):
        ask(["sleep", "30"], seconds=0.1)
    log = tmp_path / "log"
    log.write_text("error: of another run\n")
    with pytest.raises(ChildFailed, match=r"^sh exited 1$"):
        work(["sh", "-c", "exit 1"], log)
    with pytest.raises(ChildFailed, match="sh was ended by signal 9: working"):
        work(["sh", "-c", "echo working; kill -9 $$"], log)
    with pytest.raises(ChildFailed, match="cannot be run"):
        work(["/no/such/program"], log)


def test_a_child_sees_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    work(["env"], tmp_path / "log", {"DEBIAN_FRONTEND": "noninteractive"})
    seen = dict(line.split("=", 1) for line in (tmp_path / "log").read_text().splitlines())
    assert seen.keys() - {"PWD", "SHLVL", "_"} == children.ENVIRONMENT.keys() | {"DEBIAN_FRONTEND"}


KILLED = """
import sys
from pathlib import Path
from exclave_agent.upgrade.children import work
work(["sh", "-c", "echo $PPID > began; sleep 1; echo still here; echo done > ended"], Path("log"))
"""


def test_a_child_that_must_not_be_interrupted_outlives_us(tmp_path: Path) -> None:
    """kill -9, and Ctrl-C at the terminal's whole process group."""
    ours = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, start_new_session=True)
    wait_for("the child", (tmp_path / "began").exists)
    os.killpg(ours.pid, signal.SIGINT)
    ours.kill()
    ours.wait(10)
    wait_for("the child's end", (tmp_path / "ended").exists)
    assert "still here" in (tmp_path / "log").read_text()


SIGNALLED = """
import os, sys, threading, signal
from pathlib import Path
from exclave_agent.upgrade.children import work
from exclave_agent.upgrade.pace import SystemPace
from exclave_agent.upgrade.ports import Stopped
pace = SystemPace()
pace.listen()
work(["sh", "-c", "echo > began; sleep 0.5; echo > ended"], Path("log"))
assert Path("ended").exists()
try:
    pace.sleep(60)
except Stopped:
    print("stopped")
"""


def test_a_signal_to_end_waits_until_the_package_manager_is_done(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SIGNALLED]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as ours:
        wait_for("the child", (tmp_path / "began").exists)
        ours.terminate()
        out, _ = ours.communicate(timeout=30)
    assert (ours.returncode, out) == (0, b"stopped\n")
