"""The upgrader's copy of itself, the agent's control socket, systemctl."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exclave_agent.api.control import CONTROL_SOCKET
from exclave_agent.upgrade import children, probe
from exclave_agent.upgrade import foothold as foothold_module
from exclave_agent.upgrade.foothold import LinkedCopy
from exclave_agent.upgrade.machine import Machine
from exclave_agent.upgrade.ports import ServiceTrouble, UnitState
from exclave_agent.upgrade.probe import SocketProbe
from exclave_agent.upgrade.systemctl import Systemctl

# --- the copy ------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    tree = tmp_path / "opt/agent"
    (tree / "runtime/bin").mkdir(parents=True)
    (tree / "runtime/bin/python3").write_text("old")
    (tree / "runtime/lib").symlink_to("bin")
    return tree


def test_the_copy_survives_what_the_package_manager_does(program: Path) -> None:
    copy = program.with_name(".copy")
    foothold = LinkedCopy(program, copy, running=program / "runtime/bin/python3")
    assert not foothold.stands
    assert not foothold.inside
    foothold.take()
    assert foothold.stands
    python = program / "runtime/bin/python3"
    assert python.stat().st_ino == (copy / "runtime/bin/python3").stat().st_ino, "no space"
    new = python.with_name("python3.dpkg-new")
    new.write_text("new")
    new.rename(python)
    shutil.rmtree(program)
    assert (copy / "runtime/bin/python3").read_text() == "old"
    assert (copy / "runtime/lib").is_symlink()
    assert LinkedCopy(program, copy, running=copy / "runtime/bin/python3").inside
    foothold.remove()
    assert not foothold.stands
    foothold.remove()
    assert list(copy.parent.iterdir()) == []


def test_half_a_copy_never_has_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = program.with_name(".copy")
    foothold = LinkedCopy(program, copy, running=program)

    def breaks(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", breaks)
        with pytest.raises(OSError):
            foothold.take()
    assert not foothold.stands
    foothold.take()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", breaks)
        with pytest.raises(OSError):
            foothold.remove()
    foothold.remove()
    assert not foothold.stands


def test_no_other_file_system_is_waited_for(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead network file system would be flushed with all the others."""

    def hangs() -> None:
        raise AssertionError("every file system is flushed")

    flushed: list[Path] = []
    monkeypatch.setattr(os, "sync", hangs)
    monkeypatch.setattr(foothold_module, "_flush", _recorded(foothold_module._flush, flushed))
    copy = program.with_name(".copy")
    LinkedCopy(program, copy, running=program).take()
    assert flushed == [copy.with_name(".copy.new"), copy], "before it has its name, and after"
    with pytest.raises(OSError):
        foothold_module._flush(copy / "nothing")


def _recorded(flush: Callable[[Path], None], seen: list[Path]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        seen.append(folder)
        flush(folder)

    return both


def test_where_links_cannot_be_made_files_are_copied(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuses)
    copy = program.with_name(".copy")
    LinkedCopy(program, copy, running=program).take()
    assert (copy / "runtime/bin/python3").read_text() == "old"


def test_the_process_goes_on_in_the_copy_and_comes_back(tmp_path: Path) -> None:
    """With a real interpreter behind the name that both trees give it."""
    program, copy = tmp_path / "agent", tmp_path / ".copy"
    (program / "runtime/bin").mkdir(parents=True)
    wrapper = program / "runtime/bin/python3"
    wrapper.write_text('#!/bin/sh\necho "$0 $*"\n')
    wrapper.chmod(0o755)
    code = (
        "from pathlib import Path; from exclave_agent.upgrade.foothold import LinkedCopy\n"
        f"f = LinkedCopy(Path({str(program)!r}), Path({str(copy)!r}), Path({{!r}}))\n"
    )
    outside = code.format(str(program / "runtime/bin/python3")) + "f.take(); f.enter()"
    inside = code.format(str(copy / "runtime/bin/python3")) + "f.leave()"
    for script, tree in ((outside, copy), (inside, program)):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        python = tree / "runtime/bin/python3"
        assert done.stdout == f"{python} -I -B -m exclave_agent.upgrade.root\n", done.stderr
    assert not copy.exists()


# --- the control socket --------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="x") as folder:
        (Path(folder) / "run").mkdir()
        yield Path(folder)


def answer_once(home: Path, response: bytes) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / CONTROL_SOCKET))
    server.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):  # the probe may hang up, or never come
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(response)

    threading.Thread(target=serve, daemon=True).start()
    return server


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_both_rooms_mean_the_same_socket() -> None:
    assert probe.CONTROL_SOCKET == CONTROL_SOCKET


def test_the_agents_status_is_read(home: Path) -> None:
    with answer_once(home, http(json.dumps({"version": "0.2.0"}).encode())):
        assert SocketProbe(home).status() == {"version": "0.2.0"}


@pytest.mark.parametrize(
    "response",
    [b"", b"nonsense\r\n\r\n", http(b"{"), http(b"[]"), http(b"[" * 9000), http(b"{}", "500 X")],
)
def test_no_agents_answer_is_none(home: Path, response: bytes) -> None:
    with answer_once(home, response):
        assert SocketProbe(home).status() is None


def test_an_answer_in_drops_is_not_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drop comes in time; all of them never do."""
    monkeypatch.setattr(probe, "SECONDS", 0.5)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / CONTROL_SOCKET))
    server.listen()
    gone = threading.Event()

    def drip() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):  # the probe hangs up
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(100):
                connection.sendall(b" ")
                gone.wait(0.1)

    threading.Thread(target=drip, daemon=True).start()
    began = time.monotonic()
    with server:
        assert SocketProbe(home).status() is None
    gone.set()
    assert time.monotonic() - began < 5


def test_nobody_there(home: Path) -> None:
    assert SocketProbe(home).status() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="giving folders away needs root")
def test_nothing_is_said_to_a_socket_of_another_user(home: Path) -> None:
    os.chown(home, 12345, 12345)  # the socket's server is root
    with answer_once(home, http(b"{}")) as server:
        assert SocketProbe(home).status() is None
        server.settimeout(0.1)


# --- systemctl -----------------------------------------------------------------------------------


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that writes down what it is asked, and answers from a file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "systemctl"
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/answer 2>/dev/null\n'
        f'[ ! -e {tmp_path}/fails ] || {{ echo "Unit not found." >&2; exit 5; }}\n'
    )
    script.chmod(0o755)
    path = f"{tools}:{children.ENVIRONMENT['PATH']}"
    monkeypatch.setitem(children.ENVIRONMENT, "PATH", path)  # type: ignore[misc]  # a test's own
    monkeypatch.setenv("PATH", path)
    return tmp_path


def test_the_units_state_is_read(systemctl: Path) -> None:
    (systemctl / "answer").write_text(
        "ActiveState=active\nSubState=running\nNRestarts=2\nInvocationID=abc\nJob=\n"
    )
    assert Systemctl().unit() == UnitState("active", "running", 2, "abc")
    properties = "ActiveState,SubState,NRestarts,InvocationID,Job"
    asked = f"--no-ask-password show --property={properties} exclave-agent.service"
    assert (systemctl / "asked").read_text().splitlines() == [asked]
    (systemctl / "answer").write_text("ActiveState=inactive\nSubState=dead\nJob=1234\n")
    assert Systemctl().unit() == UnitState("inactive", "dead", 0, "", job=True)
    (systemctl / "answer").write_text("")
    assert Systemctl().unit() == UnitState("unknown", "unknown", 0, "")


def test_a_restart_is_begun_and_not_waited_for(systemctl: Path) -> None:
    Systemctl().daemon_reload()
    Systemctl().restart()
    asked = (systemctl / "asked").read_text().splitlines()
    assert asked == [
        "--no-ask-password daemon-reload",
        "--no-ask-password reset-failed exclave-agent.service",
        "--no-ask-password --no-block restart exclave-agent.service",
    ]
    (systemctl / "fails").touch()
    with pytest.raises(ServiceTrouble, match="systemctl exited 5: Unit not found"):
        Systemctl().restart()


def test_a_machine_without_the_packages_folders() -> None:
    assert Machine(root_folder=Path("/no/such")).kept() == []
    assert Machine(root_folder=Path("/no/such")).progress() is None
    assert not Machine(root_folder=Path("/no/such")).busy()
