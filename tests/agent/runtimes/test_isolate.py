"""A worker's process has no way out: tried from inside, against a listener that is really there."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave_testing.workers import alive

PROBE = """
import json, os, socket, sys
from exclave_agent.runtimes.isolate import has_network, isolate

port, path = int(sys.argv[1]), sys.argv[2]

def reach(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(2)
            one.connect(address)
        return "connected"
    except OSError as error:
        return type(error).__name__

def all_of_them():
    return {
        "tcp": reach(socket.AF_INET, ("127.0.0.1", port)),
        "unix": reach(socket.AF_UNIX, path),
        "has_network": has_network(),
    }

before = all_of_them()
walls = isolate(os.getppid())
print(json.dumps({
    "before": before, "after": all_of_them(), "walls": walls,
    "status": open("/proc/thread-self/status").read(),
    "devices": open("/proc/thread-self/net/dev").read(),
}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process saw before and after it isolated itself."""
    path = str(tmp_path_factory.mktemp("unix") / "s")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(path)
        unix.listen()
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE, str(tcp.getsockname()[1]), path],
            capture_output=True,
            timeout=30,
            check=True,
        )
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


def test_a_listener_that_was_reachable_no_longer_is(probe: dict[str, object]) -> None:
    assert probe["before"] == {"tcp": "connected", "unix": "connected", "has_network": True}
    assert probe["after"] == {
        "tcp": "PermissionError",
        "unix": "PermissionError",
        "has_network": False,
    }


def test_the_reported_walls_stand(probe: dict[str, object]) -> None:
    walls = probe["walls"]
    assert isinstance(walls, list)
    status = dict(
        line.split(":\t", 1) for line in str(probe["status"]).splitlines() if ":\t" in line
    )
    assert {"parent_death", "seccomp", "no_new_privs", "no_dump", "no_caps"} <= set(walls)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if "netns" in walls:
        devices = [line.split(":")[0].strip() for line in str(probe["devices"]).splitlines()[2:]]
        assert devices == ["lo"]


def test_it_signals_nobody_but_itself_and_starts_nothing() -> None:
    code = """
import os, signal
from exclave_agent.runtimes.isolate import isolate
parent = os.getppid()
isolate(parent)
def refused(act, *arguments):
    try:
        act(*arguments)
    except PermissionError:
        return True
    return False
import ctypes, fcntl, resource, sys
read, write = os.pipe()
for command in (fcntl.F_SETOWN, fcntl.F_SETSIG, 15):
    assert refused(fcntl.fcntl, write, command, parent)
assert fcntl.fcntl(write, fcntl.F_GETFL) >= 0
assert refused(resource.prlimit, parent, resource.RLIMIT_CPU, (0, 0))
assert resource.prlimit(0, resource.RLIMIT_CORE) == (0, 0)
assert resource.prlimit(os.getpid(), resource.RLIMIT_CORE) == (0, 0)
libc = ctypes.CDLL(None, use_errno=True)
TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
assert refused(os.kill, parent, 0)
assert refused(os.execv, sys.executable, [sys.executable, "-c", ""])
assert libc.syscall(TGKILL, parent, parent, 0) == -1
assert libc.syscall(TGKILL, os.getpid(), os.getpid(), 0) == 0
os.abort()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, timeout=30)
    assert done.stderr == b""
    assert done.returncode == -signal.SIGABRT


def test_beside_an_nvidia_driver_unix_sockets_reach_nobody(tmp_path: Path) -> None:
    """CUDA makes a Unix socket and listens on it, or does not start."""
    code = """
import os, socket, sys
from pathlib import Path
from exclave_agent.runtimes import isolate, landlock
isolate.NVIDIA = landlock.NVIDIA = Path("/dev/null")
ours, theirs = socket.socketpair()
assert "seccomp" in isolate.isolate(os.getppid())
def refused(act, *arguments):
    try:
        act(*arguments)
    except PermissionError:
        return True
    return False
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK):
    assert refused(socket.socket, family, socket.SOCK_DGRAM)
made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
made.bind("\\0exclave-test-%d" % os.getpid())
made.listen()
assert refused(made.accept)
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    outward = socket.socket(socket.AF_UNIX, kind)
    assert refused(outward.connect, sys.argv[1])
    assert refused(outward.sendto, b"x", sys.argv[1])
    assert refused(outward.sendmsg, [b"x"], [], 0, sys.argv[1])
ours.sendall(b"still ours")
assert theirs.recv(64) == b"still ours"
# And it gives its threads names, where Landlock stands.
stands = landlock.confine(Path("/dev/null"))
Path("/proc/self/task/%d/comm" % os.getpid()).write_text("named")
assert not stands or refused(os.listdir, "/")
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = str(tmp_path / "listener")
        listener.bind(path)
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, path], capture_output=True, timeout=30
        )
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(64)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_process_whose_parent_has_gone_does_not_start() -> None:
    code = "from exclave_agent.runtimes.isolate import isolate; isolate(1234567890)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, timeout=30)
    assert done.returncode == 1
    assert b"parent" in done.stderr


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    child = (
        "import os, time\nfrom exclave_agent.runtimes.isolate import isolate\n"
        "isolate(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        orphan = int(running.stdout.readline())
        running.kill()
        running.wait(10)
    deadline = time.monotonic() + 10
    while alive(orphan):
        assert time.monotonic() < deadline, "the orphan lives on"
        time.sleep(0.01)
