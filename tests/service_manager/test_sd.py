"""What we say to a service manager, and what we take from it."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_service import journal
from exclave_service.sd import LISTEN_FDS_START, Manager, NotifyError


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's end, and its address."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield sock, path


def test_without_a_manager_nothing_is_said() -> None:
    manager = Manager.take({})
    assert not manager.present and manager.watchdog_seconds == 0 and manager.stored == {}
    manager.ready("up")
    manager.watchdog()


def test_what_is_said(notified: tuple[socket.socket, str]) -> None:
    sock, address = notified
    manager = Manager.take({"NOTIFY_SOCKET": address})
    manager.ready("answering\nEVIL=1")
    assert sock.recv(4096) == b"READY=1\nSTATUS=answering EVIL=1"
    manager.watchdog()
    assert sock.recv(4096) == b"WATCHDOG=1"
    manager.stopping()
    assert sock.recv(4096) == b"STOPPING=1"
    manager.extend(1.5)
    assert sock.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"
    manager.reloading()
    assert sock.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    manager.status("")  # nothing to say
    manager.drop("api")
    assert sock.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=api"


def test_descriptors_are_kept_by_name(notified: tuple[socket.socket, str]) -> None:
    sock, address = notified
    with socket.socket() as kept:
        Manager.take({"NOTIFY_SOCKET": address}).keep("http", [kept.fileno()])
        data, ancillary, _, _ = sock.recvmsg(4096, 64)
    assert data == b"FDSTORE=1\nFDNAME=http\nFDPOLL=0"
    assert ancillary[0][:2] == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    (received,) = array.array("i", ancillary[0][2])
    os.close(received)


def test_a_socket_made_anew_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(path)
    manager = Manager.take({"NOTIFY_SOCKET": path})
    first.close()
    os.unlink(path)
    with pytest.raises(NotifyError, match="WATCHDOG"):
        manager.watchdog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(path)
        second.settimeout(5)
        manager.watchdog()
        assert second.recv(100) == b"WATCHDOG=1"


def test_an_abstract_address(tmp_path: Path) -> None:
    name = f"exclave-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        Manager.take({"NOTIFY_SOCKET": "@" + name}).watchdog()
        assert sock.recv(100) == b"WATCHDOG=1"


def test_variables_are_taken_out_of_the_environment(tmp_path: Path) -> None:
    env = {
        "NOTIFY_SOCKET": str(tmp_path / "none"),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "api",
        "PATH": "/usr/bin",
    }
    manager = Manager.take(env)
    assert env == {"PATH": "/usr/bin"}
    assert manager.watchdog_seconds == 30
    assert manager.stored == {}, "addressed to another process"


@pytest.mark.parametrize("text", ["", "-5", "soon", "\u0661"])
def test_a_watchdog_time_that_no_manager_writes_is_none(text: str) -> None:
    assert Manager.take({"WATCHDOG_USEC": text}).watchdog_seconds == 0


def test_descriptors_that_are_handed_over() -> None:
    """In a child: descriptor 3 is the test runner's here."""
    code = (
        "import os\n"
        "from exclave_service.sd import Manager\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "found = Manager.take().stored\n"
        "assert found == {'http': (3,), 'unix': (4,)}, found\n"
        "assert not os.get_inheritable(3)\n"
        "assert 'LISTEN_FDS' not in os.environ\n"
    )
    import subprocess
    import sys

    script = 'exec 3<>/dev/null 4<>/dev/null; exec "$0" -c "$1"'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, code],
        env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:unix"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert LISTEN_FDS_START == 3


def test_a_record_as_the_journal_reads_it() -> None:
    data = journal.encode({"MESSAGE": "one", "TEXT": "a\nb", "bad name": "x", "_TRUSTED": "x"})
    assert data == b"MESSAGE=one\nTEXT\n" + struct.pack("<Q", 3) + b"a\nb\n"


def test_log_records_become_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(5)
        handler = journal.JournalHandler("exclave-agent", path)
        logger = logging.Logger("test")
        logger.addHandler(handler)
        logger.warning("model %s", "m", extra={journal.FIELDS: {"EXCLAVE_MODEL": "m"}})
        fields = dict(line.split("=", 1) for line in sock.recv(65536).decode().splitlines())
        handler.close()
    assert fields["MESSAGE"] == "model m"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "exclave-agent"
    assert fields["EXCLAVE_MODEL"] == "m"


def test_a_journal_that_is_gone_loses_records_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    handler = journal.JournalHandler("x", path)
    sock.close()
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("lost")
    path.unlink()
    logger.info("lost")
    assert handler._lost == 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(path))
        again.settimeout(5)
        logger.info("found")
        assert b"EXCLAVE_RECORDS_LOST=2\n" in again.recv(65536)
    handler.close()


def test_stderr_is_the_journals_when_it_says_so() -> None:
    stat = os.fstat(2)
    assert journal.is_our_stderr({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
    assert not journal.is_our_stderr({"JOURNAL_STREAM": "1:1"})
    assert not journal.is_our_stderr({})
