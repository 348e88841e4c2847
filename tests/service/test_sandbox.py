"""The sandbox is a real system: units, sandboxing, limits, journals and credentials work in it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_testing import sandbox
from exclave_testing.processes import ROOT, CommandFailed, wait_for
from exclave_testing.sandbox import BOOKS, Boot, Sandbox, Unavailable, diff, why_not
from exclave_testing.sandbox_cgroups import PREFIX, Hierarchy, hierarchies
from exclave_testing.sandbox_files import inside

# A loaded machine needs a few times what an idle one does (about half a second).
BOOT_SECONDS = 10

# As hard as the agent's and the worker's units together.
HARDENED = """
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
PrivateIPC=yes
PrivateNetwork=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""


def service(box: Sandbox, name: str, body: str, unit: str = "") -> None:
    """Write a service's unit file and let systemd read it."""
    box.write_text(f"/etc/systemd/system/{name}", f"[Unit]\n{unit}\n[Service]\n{body}\n")
    box.run(["systemctl", "daemon-reload"])


# --- booting and ending -------------------------------------------------------------------


def test_it_boots_in_seconds(box: Sandbox) -> None:
    print(f"booted in {box.boot_took:.2f} s")
    assert box.boot_took < BOOT_SECONDS
    assert box.sh("systemctl is-system-running").strip() == "running"
    assert box.sh("systemctl list-units --failed --no-legend") == ""
    assert box.sh("cat /proc/1/comm") == "systemd\n"


def test_debian_13_boots_too(boot: Boot, trixie: Path) -> None:
    box = boot("trixie", tree=trixie)
    assert "13" in box.read_text("/etc/debian_version")
    assert box.sh("systemctl is-system-running").strip() == "running"


def test_it_boots_with_cgroup_v2_alone(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beside v1 this hierarchy has no controllers; what counts is that systemd takes it as its own.
    unified = next(each for each in hierarchies() if not each.options)
    monkeypatch.setattr(sandbox, "hierarchies", lambda: [replace(unified, name="")])
    box = boot("v2")
    assert box.sh("findmnt --noheadings --output FSTYPE /sys/fs/cgroup").strip() == "cgroup2"
    assert box.sh("systemctl is-system-running").strip() == "running"
    assert not box.controllers - unified.controllers


def test_what_is_enabled_comes_up_after_a_reboot(boot: Boot) -> None:
    box = boot("reboot", on_disk=True)
    service(box, "hello.service", "ExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target")
    box.run(["systemctl", "enable", "hello.service"])
    first = box.read_text("/proc/sys/kernel/random/boot_id")
    assert box.show("hello.service", "ActiveState") == {"ActiveState": "inactive"}
    box.reboot()
    assert box.show("hello.service", "ActiveState") == {"ActiveState": "active"}
    assert box.read_text("/proc/sys/kernel/random/boot_id") == first, "the kernel is the host's"


def test_the_host_is_as_before(boot: Boot) -> None:
    before = list(_host())
    box = boot("host")
    assert list(_host()) == before, "while it runs"
    box.sh("hostname other && mknod /dev/x c 1 3 && rm /dev/null && mount -t tmpfs tmpfs /mnt")
    with pytest.raises(CommandFailed, match="Read-only"):
        box.sh("echo /tmp/core >/proc/sys/kernel/core_pattern")
    box.shut_down()
    assert list(_host()) == before
    mine = [name for name in _groups() if name.startswith(f"{PREFIX}{os.getpid()}-")]
    assert not [name for name in mine if name.endswith("-host")]


def _host() -> Iterator[object]:
    """What a sandbox must not touch: names, settings, mounts, devices, control groups."""
    yield socket.gethostname()
    yield Path("/proc/sys/kernel/core_pattern").read_text()
    yield Path("/proc/self/mountinfo").read_text()
    yield sorted(
        (item.name, item.stat(follow_symlinks=False).st_rdev) for item in os.scandir("/dev")
    )
    yield [name for name in _groups() if not name.startswith(PREFIX)]


def _groups() -> list[str]:
    return sorted(
        item.name for each in hierarchies() for item in os.scandir(each.own) if item.is_dir()
    )


def test_all_ends_with_the_test_process(bookworm: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from exclave_testing.sandbox import Sandbox\n"
        "box = Sandbox(Path(sys.argv[1]), 'orphan', Path(sys.argv[2])); box.boot()\n"
        "print(box.pid, flush=True); time.sleep(60)"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", script, bookworm, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with maker:
        assert maker.stdout is not None
        first = Path("/proc", maker.stdout.readline().strip())
        assert (first / "comm").read_text() == "systemd\n"
        maker.kill()
    wait_for("its first process to end", lambda: not first.exists())
    # Its control groups are empty; whoever boots next removes them.
    with Sandbox(bookworm, "next", tmp_path):
        assert not [name for name in _groups() if name.startswith(f"{PREFIX}{maker.pid}-")]


def test_a_failed_boot_says_why(boot: Boot, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AssertionError, match=r"ended while booting:\n.*proc"):
        boot("empty", tree=empty)


HYBRID = {
    "cgroup": "3:cpu,cpuacct:/user/1\n2:memory:/a/b\n1:name=systemd:/user\n0::/user\n",
    "mountinfo": (
        "30 29 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "31 29 0:27 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd\n"
        "32 29 0:28 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "33 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    ),
}
PURE = {
    "cgroup": "0::/user.slice/x.scope\n",
    "mountinfo": "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def _proc(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_hierarchies_of_hosts(tmp_path: Path) -> None:
    base = Path("/sys/fs/cgroup")
    assert hierarchies(_proc(tmp_path, HYBRID)) == [
        Hierarchy("cpu,cpuacct", "cpu,cpuacct", base / "cpu,cpuacct/user/1"),
        Hierarchy("memory", "memory", base / "memory/b"),
        Hierarchy("systemd", "none,name=systemd", base / "systemd/user"),
        Hierarchy("unified", "", base / "unified/user"),
    ]
    assert hierarchies(_proc(tmp_path, PURE)) == [Hierarchy("", "", base / "user.slice/x.scope")]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("2:memory:/a/b", "2:memory:/elsewhere", "/elsewhere is outside what /sys/fs/cgroup/mem"),
        ("rw,memory", "rw,freezer", "the cgroup hierarchy memory is not mounted"),
        ("0::/user\n", "", "no cgroup v2"),
        ("1:name=systemd:/user\n", "", "without the hierarchy name=systemd"),
    ],
)
def test_hosts_whose_groups_are_out_of_reach(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    files = {name: text.replace(old, new) for name, text in HYBRID.items()}
    with pytest.raises(Unavailable, match=reason):
        hierarchies(_proc(tmp_path, files))


def test_why_not_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = why_not.__wrapped__()
    assert reason is not None
    assert "root" in reason


# --- commands and files -------------------------------------------------------------------


def test_commands(box: Sandbox) -> None:
    assert box.run(["cat"], input="héllo").stdout == "héllo"
    assert box.run(["sh", "-c", "echo $A $HOME"], env={"A": "1"}).stdout == "1 /root\n"
    assert box.run(["id", "-un"], user="nobody").stdout == "nobody\n"
    assert box.run(["false"], code=1).returncode == 1
    with pytest.raises(CommandFailed, match=r"`ls /nothing` exited 2, wanted 0\s+.*No such file"):
        box.run(["ls", "/nothing"])


def test_a_command_that_takes_too_long_is_ended(box: Sandbox) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        box.run(["sleep", "4321"], timeout=0.2)
    wait_for(
        "the command to be gone", lambda: box.run(["pgrep", "-f", "4321"], code=None).returncode
    )


def test_only_loopback(box: Sandbox) -> None:
    assert box.sh("ls /sys/class/net; ip -brief address show lo").split()[:3] == [
        "lo",
        "lo",
        "UNKNOWN",
    ]
    service(box, "greet@.service", "StandardInput=socket\nExecStart=echo hello")
    box.write_text(
        "/etc/systemd/system/greet.socket", "[Socket]\nListenStream=127.0.0.1:4455\nAccept=yes\n"
    )
    box.run(["systemctl", "start", "greet.socket"])
    with box.connect(4455) as connection:
        assert connection.makefile().read() == "hello\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 4455), 1)


def test_binds_are_read_only(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/one").write_text("1")
    (tmp_path / "two").write_text("2")
    box = boot("binds", binds={tmp_path / "packages": "/mnt/in", tmp_path / "two": "/mnt/two"})
    assert box.sh("cat /mnt/in/one /mnt/two") == "12"
    for path in ("/mnt/in/new", "/mnt/two"):
        with pytest.raises(CommandFailed, match="Read-only"):
            box.sh(f"echo 3 >{path}")


def test_links_are_followed_as_the_sandbox_would(tmp_path: Path) -> None:
    for folder in ("root/run/lock", "root/var", "root/a/b"):
        (tmp_path / folder).mkdir(parents=True)
    root = tmp_path / "root"
    (root / "var/lock").symlink_to("/run/lock")
    (root / "a/up").symlink_to("../../../../var/lock")
    (root / "loop").symlink_to("/loop")
    assert inside(root, "/var/lock/x") == root / "run/lock/x"
    assert inside(root, "/a/up/x") == root / "run/lock/x"
    assert inside(root, "/a/b/../../../etc") == root / "etc"
    with pytest.raises(OSError, match="too many links"):
        inside(root, "/loop/x")


def test_snapshots_find_every_change(box: Sandbox) -> None:
    before = box.snapshot()
    assert len(before) > 1000
    assert not diff(before, box.snapshot())
    box.sh(
        "touch /opt/new; mkdir -p /run/exclave; chmod 700 /srv; mv /etc/issue /etc/moved;"
        "cp -p /etc/hosts /etc/keep; echo >>/etc/hosts; ln -sf /x /etc/link"
    )
    found = diff(before, box.snapshot())
    assert set(found.added) == {"/opt/new", "/run/exclave", "/etc/moved", "/etc/keep", "/etc/link"}
    assert set(found.removed) == {"/etc/issue"}
    assert set(found.changed) == {"/etc/hosts", "/srv"}
    assert "~ /srv  folder 0755 0:0 -> folder 0700 0:0" in str(found)
    box.sh("rm -r /opt/new /run/exclave /etc/link; chmod 755 /srv; mv /etc/moved /etc/issue")
    # Same content with other times is the same file.
    box.sh("cat /etc/keep >/etc/hosts; rm /etc/keep")
    assert not diff(before, box.snapshot())


def test_a_package_comes_and_goes_offline(box: Sandbox) -> None:
    before = box.snapshot(BOOKS)
    box.sh(
        "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/man/man1 && echo >/tmp/p/usr/share/man/man1/p.1"
    )
    control = "Package: exclave-p\nVersion: 1\nArchitecture: all\nDepends: systemd\n"
    box.write_text("/tmp/p/DEBIAN/control", f"{control}Maintainer: x\nDescription: x\n")
    box.sh("dpkg-deb -b /tmp/p /tmp/p.deb && rm -r /tmp/p && apt-get install -y /tmp/p.deb")
    assert "/usr/share/man/man1/p.1" in diff(before, box.snapshot()).added, "manuals are kept"
    box.sh("apt-get purge -y exclave-p && rm /tmp/p.deb")
    assert not (left := diff(before, box.snapshot(BOOKS))), str(left)


# --- what systemd does --------------------------------------------------------------------


def test_a_hardened_service_starts_and_is_shut_in(box: Sandbox) -> None:
    script = (
        "touch /usr/x || echo read-only; ls /sys/class/net; ls /home || echo no home;"
        "ls -d /proc/[0-9]* | grep -c .; touch /var/lib/hard/mine; systemd-notify --ready;"
        "exec sleep infinity"
    )
    body = "Type=notify\nNotifyAccess=all\nDynamicUser=yes\nStateDirectory=hard\nTasksMax=20"
    service(box, "hard.service", f"{body}\nExecStart=/bin/sh -c '{script}'{HARDENED}")
    box.run(["systemctl", "start", "hard.service"])
    said = box.run(["journalctl", "-u", "hard.service", "-o", "cat"]).stdout.splitlines()
    assert {"read-only", "lo", "no home"} <= set(said), said
    assert max(int(line) for line in said if line.isdigit()) < 10, "only its own processes"
    assert box.path("/var/lib/hard/mine").stat().st_uid > 60000
    box.run(["systemctl", "stop", "hard.service"])


def test_memory_max_kills(box: Sandbox) -> None:
    if "memory" not in box.controllers:
        pytest.skip("this host hands out no memory controller")
    service(box, "eat.service", "MemoryMax=40M\nMemorySwapMax=0\nExecStart=tail /dev/zero")
    box.run(["systemctl", "start", "eat.service"])
    box.wait_unit("eat.service", "failed")
    shown = box.show("eat.service", "Result", "ExecMainStatus")
    # With cgroup v1 the kernel tells systemd of a signal only.
    assert shown["Result"] in ("oom-kill", "signal")
    assert shown["ExecMainStatus"] == str(int(signal.SIGKILL))
    box.run(["systemctl", "reset-failed"])


def test_journal_namespaces(box: Sandbox) -> None:
    limits = "[Journal]\nStorage=persistent\nSystemMaxUse=7M\n"
    box.write_text("/usr/lib/systemd/journald@test.conf.d/10-test.conf", limits)
    service(box, "talk.service", "Type=oneshot\nLogNamespace=test\nExecStart=echo canary")
    box.run(["systemctl", "start", "talk.service"])
    wait_for("the message", lambda: "canary" in box.journal(namespace="test"))
    assert "max 7.0M" in box.journal(namespace="test")
    assert "canary" not in box.journal()
    machine = box.read_text("/etc/machine-id").strip()
    assert box.path(f"/var/log/journal/{machine}.test/system.journal").exists()


def test_a_hardened_worker_per_connection(box: Sandbox) -> None:
    script = 'systemd-notify --ready; while read -r line; do echo "$(id -un) $line"; done'
    box.run(["useradd", "--system", "worker"])
    box.write_text(
        "/etc/systemd/system/work.socket", "[Socket]\nListenStream=/run/work.sock\nAccept=yes\n"
    )
    body = "Type=notify\nNotifyAccess=all\nUser=worker\nWatchdogSec=30\nStandardInput=socket"
    collect = "CollectMode=inactive-or-failed"
    service(box, "work@.service", f"{body}\nExecStart=/bin/sh -c '{script}'{HARDENED}", collect)
    box.run(["systemctl", "start", "work.socket"])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for number, client in enumerate(clients):
            client.settimeout(20)
            client.connect(str(box.path("/run/work.sock")))
            client.sendall(f"{number}\n".encode())
        assert [client.recv(100) for client in clients] == [b"worker 0\n", b"worker 1\n"]
        assert len(box.sh("systemctl list-units --no-legend 'work@*.service'").splitlines()) == 2
    wait_for("both to end", lambda: not box.sh("systemctl list-units --no-legend 'work@*.service'"))


def test_credentials_are_sealed_to_the_host_key(box: Sandbox) -> None:
    seal = ["systemd-creds", "encrypt", "--with-key=host", "--name=seal.key", "-", "/etc/sealed"]
    box.run(seal, input="secret")
    assert "secret" not in box.read_text("/etc/sealed")
    service(
        box,
        "sealed.service",
        "Type=oneshot\nDynamicUser=yes\nLoadCredentialEncrypted=seal.key:/etc/sealed\n"
        "ExecStart=/bin/sh -c 'test $(cat $CREDENTIALS_DIRECTORY/seal.key) = secret'",
    )
    box.run(["systemctl", "start", "sealed.service"])
    opened = box.run(["systemd-creds", "decrypt", "--name=seal.key", "/etc/sealed", "-"])
    assert opened.stdout == "secret"


def test_exposure_can_be_judged_offline(box: Sandbox) -> None:
    service(box, "judged.service", f"ExecStart=sleep 1\nUser=nobody{HARDENED}")
    unit = "/etc/systemd/system/judged.service"
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    assert "Overall exposure level" in box.run([*words, unit]).stdout
    box.run([*words, "--threshold=15", unit])
    assert box.run([*words, "--threshold=1", unit], code=None).returncode != 0
