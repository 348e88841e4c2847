"""`doctor` and `support-bundle` as they are typed: exit codes, questions, and root's rights."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from exclave_agent.cli import doctor, support
from exclave_testing.doctor import enrolled, release
from exclave_testing.processes import BIN, run

EXE = BIN / "exclave-agent"


def test_a_home_that_has_keys_but_has_not_joined_is_told_to_join(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run([EXE, "key", "create", "--role", "analyst", "--home", home])
    done = run([EXE, "doctor", "--json", "--home", home], code=1)
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["result"] == "fail"]
    assert [check["name"] for check in failed] == ["identity"]
    assert "join" in failed[0]["remedy"]
    assert str(home) in failed[0]["detail"]
    assert (report["schema"], report["verdict"]) == ("exclave.doctor/v1", "fail")


async def test_warnings_count_only_where_they_are_to(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    await enrolled(home)  # in the year 2030: its certificate begins in the future
    runner = CliRunner()
    words = ["--offline", "--home", str(home)]
    assert runner.invoke(doctor.command, words).exit_code == 1
    (home / "identity" / "cert.pem").chmod(0o644)
    done = runner.invoke(doctor.command, [*words, "--json"])
    names = {check["name"]: check["result"] for check in json.loads(done.stdout)["checks"]}
    assert names["coordinator"] == names["enrollment"] == "skip"


def test_settings_that_are_wrong_do_not_end_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "agent.toml").write_text("lisen = 1\n")
    done = CliRunner().invoke(doctor.command, ["--json", "--home", str(home)])
    (settings, *_) = json.loads(done.stdout)["checks"]
    assert (done.exit_code, settings["result"]) == (1, "fail")
    assert "did you mean 'listen'" in settings["detail"]


def test_where_a_setting_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('listen = "127.0.0.1:1"\nheartbeat = 60\n')
    found = doctor.sources(tmp_path, {"EXCLAVE_LISTEN": "127.0.0.1:2", "EXCLAVE_HOME": "/x"})
    assert found == {
        "home": "--home or EXCLAVE_HOME",
        "listen": "EXCLAVE_LISTEN",
        "heartbeat": str(file),
    }


def test_help_names_the_exit_codes() -> None:
    text = CliRunner().invoke(doctor.command, ["--help"]).output
    assert "Exit code 0: all well" in text
    assert "--strict" in text


# --- support-bundle -----------------------------------------------------------------------


def test_without_a_terminal_it_must_be_told(tmp_path: Path) -> None:
    done = run([EXE, "support-bundle", "--home", tmp_path], code=2, cwd=tmp_path)
    assert "there is no terminal to ask at" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_list_writes_nothing(tmp_path: Path) -> None:
    done = run([EXE, "support-bundle", "--list", "--home", tmp_path / "h"], cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()][:2] == [
        "doctor.json",
        "status.json",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_it_shows_what_is_inside_and_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    # click's runner replaces stdin; the question whether it is a terminal is answered here.
    monkeypatch.setattr(support, "_terminal", lambda: True)
    path = tmp_path / "x.tar.gz"
    words = ["--offline", "-o", str(path), "--home", str(tmp_path / "h")]
    done = CliRunner().invoke(support.command, words, input=answer)
    assert done.exit_code == code
    assert "journal.jsonl" in done.output
    assert path.exists() is (code == 0)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"mine")
    words = ["--yes", "-o", str(path), "--home", str(tmp_path / "h")]
    done = CliRunner().invoke(support.command, words)
    assert done.exit_code == 2
    assert path.read_bytes() == b"mine"


# --- root ---------------------------------------------------------------------------------


NOBODY = 65534


def _open_to_all(path: Path) -> bool:
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))


@pytest.fixture
def foreign_home() -> Iterator[Path]:
    """An enrolled home of another user, in a place that this user can reach."""
    if os.geteuid() != 0 or not _open_to_all(Path(sys.prefix)):
        pytest.skip("needs root, and an installation that other users can read")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir(mode=0o700)
    asyncio.run(enrolled(home))
    asyncio.run(release(home))
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    yield home
    shutil.rmtree(folder)


def _owners(home: Path) -> set[int]:
    return {path.stat().st_uid for path in (home, *home.rglob("*"))}


def test_root_looks_as_the_homes_user(foreign_home: Path) -> None:
    done = run([EXE, "doctor", "--json", "--offline", "--home", foreign_home], code=None)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["state.db"]["result"] == "ok"
    assert _owners(foreign_home) == {NOBODY}


def test_the_bundle_is_written_where_root_stands(foreign_home: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    words = ["--yes", "--offline", "-o", "x.tar.gz"]
    run([EXE, "support-bundle", *words, "--home", foreign_home], cwd=tmp_path)
    found = (tmp_path / "x.tar.gz").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        names = [Path(entry.name).name for entry in tar]
    assert names[:2] == ["MANIFEST.txt", "doctor.json"]
    assert _owners(foreign_home) == {NOBODY}
