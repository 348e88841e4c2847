"""The real machine: nothing it does may hang, and what root saw first stays seen."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from exclave_agent.doctor.host import Host
from exclave_agent.doctor.machine import TIMED_OUT, Ran


def test_a_command_that_hangs_is_ended_with_its_children() -> None:
    begin = time.monotonic()
    # The child holds the pipe open: ending its parent alone would wait for it.
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    assert Host().run([sys.executable, "-c", code], seconds=0.5) == Ran(TIMED_OUT, "")
    assert time.monotonic() - begin < 10


def test_commands_speak_one_language_and_get_no_terminal() -> None:
    done = Host().run(["sh", "-c", "echo $LC_ALL $SYSTEMD_COLORS; cat"])
    assert done == Ran(0, "C 0\n")


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert Host().read(tmp_path / "fifo") is None
    assert Host().read(Path("/dev/zero")) is None


def test_a_resolver_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    def never(*_: object, **__: object) -> list[object]:
        stuck.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with pytest.raises(TimeoutError):
        Host().resolve("example.org", 1, seconds=0.05)
    stuck.set()


def test_what_was_remembered_is_not_looked_at_again(tmp_path: Path) -> None:
    host, file, command = Host(), tmp_path / "file", ["cat", str(tmp_path / "file")]
    file.write_text("before")
    host.remember([file, tmp_path / "none"], [(command, 5.0)])
    file.write_text("after")
    (tmp_path / "none").write_text("after")
    assert host.read(file) == b"before"
    assert host.read(tmp_path / "none") is None
    assert host.run(command).out == "before"
