"""Errors at the command line: one clear line, exit code 1, and never a caller's data."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_agent import cli
from exclave_agent.cli import explain, logs
from exclave_agent.errors import IdentityError, StorageFull
from exclave_protocol.identity import JoinToken
from exclave_testing.processes import BIN, run

TOKEN = JoinToken(
    "acme", "0" * 32, bytes(32), "127.0.0.1:1", "ab" * 32, "cd" * 32, "north"
).encode()
SECRET = "the patient is called Mabuse"


def raised(error: ValueError) -> ValueError:
    """With a traceback, as one that was caught."""
    try:
        raise error
    except ValueError as caught:
        return caught


def test_our_errors_inside_groups_are_lines_of_their_own() -> None:
    inner = ExceptionGroup(
        "tasks", [StorageFull("the disk is full"), StorageFull("the disk is full")]
    )
    group = ExceptionGroup("tasks", [inner, IdentityError("not joined")])
    assert explain(group) == ["error: the disk is full", "error: not joined"]


def test_an_error_of_the_system_names_the_file() -> None:
    assert explain(NotADirectoryError(20, "Not a directory", "/a/b")) == [
        "error: Not a directory: /a/b"
    ]
    assert explain(PermissionError(13, "Permission denied", "/a"))[0] == "error: no permission: /a"


def test_an_unforeseen_error_does_not_tell_its_text() -> None:
    lines = explain(ExceptionGroup("tasks", [raised(ValueError(SECRET))]))
    assert lines[0].startswith("error: internal: ValueError at raised:")
    assert SECRET not in "".join(lines)


def test_the_command_ends_with_one_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise ExceptionGroup("tasks", [StorageFull("the disk is full")])

    before = os.umask(0)
    try:
        monkeypatch.setattr(cli.cli, "main", fails)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    finally:
        left = os.umask(before)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: the disk is full\n"
    assert left == 0o077, "what the agent writes is its user's alone"


@pytest.mark.parametrize(
    ("home", "said"),
    [("/proc/none/such", "No such file"), ("/dev/null/x", "Not a directory")],
)
def test_a_home_that_cannot_be_made_is_named(tmp_path: Path, home: str, said: str) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    done = run([BIN / "exclave-agent", "join", "--token-file", token, "--home", home], code=1)
    assert said in done.stderr
    assert home in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_token_file_that_is_no_text_is_a_malformed_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"\xff\xfe" * 40)
    home = tmp_path / "home"
    done = run([BIN / "exclave-agent", "join", "--token-file", token, "--home", home], code=1)
    assert done.stderr.startswith("error: join token:")
    assert not home.exists()


def test_a_home_open_to_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    home, token = tmp_path / "home", tmp_path / "token"
    token.write_text(TOKEN)
    home.mkdir()
    home.chmod(0o755)
    for words in (["join", "--token-file", token], ["key", "create", "--role", "analyst"]):
        done = run([BIN / "exclave-agent", *words, "--home", home], code=1)
        assert "chmod 700" in done.stderr
    assert list(home.iterdir()) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_status_says_what_runs_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from exclave_agent.cli import control

    answers: dict[str, object] = {"release": None}
    monkeypatch.setattr(control, "status", lambda _: answers)
    words = ["status", "--json", "--home", str(tmp_path)]
    with pytest.raises(SystemExit) as none:
        cli.cli.main(words)
    assert none.value.code == 4
    assert json.loads(capsys.readouterr().out) == answers
    answers["release"] = {"version": 1}
    with pytest.raises(SystemExit) as some:
        cli.cli.main(words)
    assert some.value.code == 0


# --- the log ----------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as `run` sets it up."""
    root, stderr = logging.getLogger(), io.StringIO()
    before, level = set(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.start("info")
    (ours,) = set(root.handlers) - before
    yield stderr
    root.removeHandler(ours)
    root.setLevel(level)
    for name in logs.CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_logged_exception_is_told_by_type_and_place(lines: io.StringIO) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    said = lines.getvalue()
    assert "ValueError at test_a_logged_exception" in said
    assert SECRET not in said
    assert "Traceback" not in said


def test_a_line_that_cannot_be_written_is_told_without_its_arguments() -> None:
    stream = io.StringIO()
    record = logging.LogRecord("library", logging.ERROR, "x.py", 7, "%d", (SECRET,), None)
    logs.DiscreetHandler(stream).handle(record)
    assert stream.getvalue() == "a line of library:7 cannot be written\n"


async def test_what_no_task_waited_for_is_told_by_type_and_place(
    lines: io.StringIO,
) -> None:
    loop = asyncio.get_running_loop()
    logs.watch(loop)

    async def fails() -> None:
        raise ValueError(SECRET)

    task = asyncio.ensure_future(fails())
    while not task.done():
        await asyncio.sleep(0)
    del task  # asyncio reports it here
    said = lines.getvalue()
    assert "never retrieved: ValueError at fails" in said
    assert SECRET not in said
    loop.set_exception_handler(None)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from exclave_agent import cli\n"
        "try: cli.cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'uvloop', 'numpy', 'sqlite3', 'uvicorn'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code]).stdout.endswith("[]\n")
