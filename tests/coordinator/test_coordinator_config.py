"""The command line's promises: settings and their page, exit codes, a version at once."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from exclave_coordinator import cli, commands, config, serve
from exclave_coordinator.config import Settings
from exclave_coordinator.serve import log_handler
from exclave_service.journal import JournalHandler
from exclave_service.version import installed
from exclave_testing.coordinator import new_home
from exclave_testing.processes import BIN, ROOT

PAGE = ROOT / "docs" / "coordinator-settings.md"
RUNBOOK = ROOT / "docs" / "coordinator-runbook.md"


def _run(*words: str | Path) -> Any:
    return CliRunner().invoke(commands.main, [str(w) for w in words])


def test_the_page_is_what_the_command_prints() -> None:
    done = _run("config", "reference")
    assert done.exit_code == 0
    assert done.output == PAGE.read_text(), (
        "exclave-coordinator config reference > docs/coordinator-settings.md"
    )
    for item in fields(Settings):
        assert f"| `{item.name}` |" in done.output


def test_the_example_on_the_page_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(PAGE.read_text().split("```toml\n")[1].split("```")[0])
    assert config.load(file).dial_host == "exclave.bank.example"


def test_check_says_whether_the_file_is_valid(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    done = _run("config", "check", "--home", home.path)
    assert (done.exit_code, "agents dial 127.0.0.1" in done.output) == (0, True)
    other = tmp_path / "next.toml"
    other.write_text("listn = 'x:1'")
    wrong = _run("config", "check", "--home", home.path, other)
    assert wrong.exit_code == 1
    assert "did you mean listen" in wrong.output
    missing = _run("config", "check", "--home", tmp_path)
    assert missing.exit_code == 1
    assert "init" in missing.output


def test_serve_tells_the_manager_not_to_try_a_wrong_setting_again(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    home.settings_file.write_text("listen = 'nonsense'")
    command = [sys.executable, "-m", "exclave_coordinator.cli", "serve", "--home", str(home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == commands.EXIT_CONFIG
    assert done.stderr == "Error: listen: must be host:port with a port from 0 to 65535\n"


def test_exit_codes_are_in_the_help() -> None:
    shown = " ".join(_run("--help").output.split())
    for words in ("0 done", "1 refused or failed", "2 wrong usage", "3 a migration", "78 a sett"):
        assert words in shown
        assert words.split()[0] in (commands.__doc__ or "")
    assert _run("serve", "--nonsense").exit_code == 2


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    home.settings_file.unlink()
    home.settings_file.mkdir()
    done = _run("config", "check", "--home", home.path)
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "coordinator.toml" in done.output


def test_version_is_answered_within_100_ms() -> None:
    from importlib.metadata import version

    took = []
    for _ in range(9):
        begin = time.perf_counter()
        done = subprocess.run(
            [BIN / "exclave-coordinator", "--version"], capture_output=True, text=True
        )
        took.append(time.perf_counter() - begin)
        assert done.stdout == f"exclave-coordinator, version {version('exclave')}\n"
    # The quickest: the others measure whatever else this machine does.
    assert min(took) < 0.1, took
    assert done.stdout == _run("--version").output
    assert installed() == version("exclave")


def test_the_click_command_is_found_by_who_writes_its_manual() -> None:
    assert cli.command is commands.main
    with pytest.raises(AttributeError):
        cli.nothing  # noqa: B018 (looked up to be refused)


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:7443", "127.0.0.1"),
        ("0.0.0.0:7443", "127.0.0.1"),
        ("[::]:7443", "::1"),
        ("[fd00::7]:7443", "fd00::7"),
        ("exclave.bank.example:7443", "exclave.bank.example"),
    ],
)
def test_where_this_machine_reaches_itself(listen: str, host: str) -> None:
    assert config.local_host(listen) == host


def _runbook() -> list[str]:
    return re.findall(r"```bash runbook\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)


def test_the_runbooks_blocks_are_shell_and_say_what_they_assume() -> None:
    for block in _runbook():
        assert block.startswith("# Assumes: "), block
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_runbooks_commands_exist() -> None:
    words = re.findall(r"(?m)(?:^|exec )exclave-coordinator (.*)$", "\n".join(_runbook()))
    assert len(words) > 15
    used = set()
    for line in words:
        command: Any = commands.main
        for word in line.split("#")[0].split():
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
            elif word.startswith("--") and word != "--version":
                assert word in {o for p in command.params for o in p.opts}, line
        used.add(command.name)
    assert used >= {"init", "check", "doctor", "backup", "restore", "migrate"}


def test_records_go_to_the_journal_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    handler = log_handler()
    assert isinstance(handler, logging.StreamHandler)
    assert handler.formatter is not None
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "socket"
        monkeypatch.setattr(serve, "JournalHandler", lambda name: JournalHandler(name, place))
        # The journal is not there (yet): nothing is lost for it.
        assert isinstance(log_handler(), logging.StreamHandler)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.bind(str(place))
            handler = log_handler()
            assert isinstance(handler, JournalHandler)
            record = logging.makeLogRecord({"name": "x", "msg": "hello", "levelno": logging.ERROR})
            handler.emit(record)
            said = journal.recv(4096)
            handler.close()
    assert b"MESSAGE=hello\nPRIORITY=3\nSYSLOG_IDENTIFIER=exclave-coordinator\n" in said


OWNED = """
import os, sys
from pathlib import Path
from exclave_coordinator.home import Home, hold
from exclave_service.owner import become_owner
home = Home(Path(sys.argv[1]))
become_owner(home.path)
with hold(home):
    print(os.getuid(), os.getgid(), os.getgroups(), (home.run / "lock").stat().st_uid)
"""


def test_root_becomes_the_homes_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    # Not below pytest's own folder, which lets nobody else through.
    with tempfile.TemporaryDirectory() as folder:
        home = new_home(Path(folder) / "home")
        for path in (Path(folder), home.path, *home.path.rglob("*")):
            os.chown(path, 54321, 54321)
        command = [sys.executable, "-c", OWNED, str(home.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stdout == "54321 54321 [] 54321\n", done.stderr
