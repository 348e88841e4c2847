"""The commands as people run them: init, serve, doctor, and a power cut in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from exclave_coordinator import config
from exclave_coordinator.commands import main
from exclave_coordinator.config import Settings
from exclave_coordinator.errors import SetupError
from exclave_coordinator.home import Home
from exclave_coordinator.storage.database import Database
from exclave_testing.coordinator import (
    RunningCoordinator,
    ShiftedClock,
    new_home,
    running_coordinator,
)

PROGRAM = [sys.executable, "-m", "exclave_coordinator.cli"]


class Up:
    """What `serve` printed."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.session, self.enroll, self.metrics = (
            ready[k] for k in ("session", "enroll", "metrics")
        )


class Serving:
    """`serve` in its own process."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--home", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())

    def stop(self, number: int) -> int:
        """Send a signal and wait."""
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A fresh home."""
    return new_home(tmp_path / "home")


@pytest.fixture
def serving(home: Home) -> Iterator[Serving]:
    """A process that serves it."""
    running = Serving(home.path)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait(10)


def _run(*words: str | Path) -> Any:
    return CliRunner().invoke(main, [str(w) for w in words])


def test_init_makes_private_files_and_overwrites_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = _run("init", "--home", home, "--trust-domain", "bank.example", "--hostname", "c.bank")
    assert done.exit_code == 0, done.output
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    profile = json.loads((home / "operators/admin/profile.json").read_text())
    assert profile == {
        "endpoint": "c.bank:7443",
        "name": "admin",
        "role": "admin",
        "trust_domain": "bank.example",
    }
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    again = _run("init", "--home", home)
    assert again.exit_code == 1
    assert "nothing was changed" in again.output
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trust-domain", "Not A Domain"], "trust domain"),
        (["--listen", "nonsense"], "listen"),
        (["--listen", "127.0.0.1:99999"], "listen"),
        (["--listen", "0.0.0.0:7443"], "hostname"),
    ],
)
def test_init_refuses_nonsense_and_leaves_nothing(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = _run("init", "--home", tmp_path / "home", *words)
    assert done.exit_code == 1
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


def test_init_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert _run("init", "--home", tmp_path / "home").exit_code == 0


def test_settings_file_says_every_setting_and_reads_back(home: Home) -> None:
    text = home.settings_file.read_text()
    for item in fields(Settings):
        assert f"# {item.metadata['doc']}\n{item.name} = " in text
    assert config.load(home.settings_file).listen == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listn = 'x:1'", "did you mean listen"),
        ("max_sessions = 'many'", "max_sessions must be an integer"),
        ("max_sessions = true", "max_sessions must be an integer"),
        ("max_sessions = 0", "between 1 and"),
        ("listen = 'x'", "listen: must be host:port"),
        ("log_level = 'loud'", "log_level"),
        ("= 1", "not readable TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    with pytest.raises(SetupError, match=said):
        config.load(file)


def test_doctor_finds_what_is_wrong(home: Home) -> None:
    assert _run("doctor", "--home", home.path).exit_code == 0
    home.key("director").chmod(0o644)
    home.key("witness").unlink()
    home.database.write_bytes(b"junk" * 500)
    done = _run("doctor", "--home", home.path, "--json")
    assert done.exit_code == 1
    bad = {f["name"]: f for f in json.loads(done.output) if not f["ok"]}
    assert set(bad) == {"key director.key", "key witness.key", "database"}
    assert "chmod 600" in bad["key director.key"]["remedy"]
    assert all(f["remedy"] for f in bad.values())
    missing = _run("doctor", "--home", home.path / "nowhere")
    assert missing.exit_code == 1
    assert "init" in missing.output


def test_serve_refuses_keys_that_others_may_read(home: Home) -> None:
    home.ca_key.chmod(0o640)
    done = subprocess.run(
        [*PROGRAM, "serve", "--home", str(home.path)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "chmod 600" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from exclave_coordinator.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc','sqlalchemy','tuf','cryptography','obstore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_serve_says_where_it_listens_and_stops_on_sigterm(home: Home, serving: Serving) -> None:
    endpoints = json.loads((home.run / "endpoints.json").read_text())
    assert {k: endpoints[k] for k in ("session", "enroll", "metrics")} == {
        k: serving.ready[k] for k in ("session", "enroll", "metrics")
    }
    assert endpoints["pid"] == serving.process.pid
    profile = json.loads((home.operators / "admin" / "profile.json").read_text())
    assert profile["endpoint"] == serving.ready["session"]
    second = subprocess.run(
        [*PROGRAM, "serve", "--home", str(home.path)], capture_output=True, text=True, timeout=20
    )
    assert second.returncode == 1
    assert "another coordinator serves" in second.stderr
    assert serving.stop(signal.SIGTERM) == 0
    assert not (home.run / "endpoints.json").exists()


async def test_a_taken_port_is_named(home: Home, tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "other") as other:
        text = home.settings_file.read_text()
        home.settings_file.write_text(
            text.replace('listen = "127.0.0.1:0"', f'listen = "{other.up.session}"', 1)
        )
        with pytest.raises(SetupError, match="listen: cannot listen"):
            async with running_coordinator(home.path):
                raise AssertionError("it must not serve")


async def test_kill_9_keeps_everything_that_was_answered(home: Home, serving: Serving) -> None:
    centre = RunningCoordinator(home, Up(serving.ready), ShiftedClock())  # type: ignore[arg-type]  # only its endpoints are used
    tenant = await centre.tenant("acme")
    digest = await centre.release(tenant)
    answered: list[str] = []

    async def enroll(number: int) -> None:
        # The cut hits calls under way: those owe us nothing.
        with suppress(grpc.aio.AioRpcError):
            answered.append((await centre.enroll("acme", f"a{number}")).name)

    tasks = [asyncio.create_task(enroll(n)) for n in range(60)]
    deadline = time.monotonic() + 20
    while len(answered) < 10:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert serving.stop(signal.SIGKILL) == -signal.SIGKILL
    await asyncio.gather(*tasks)
    await centre.close()
    store = await asyncio.to_thread(Database, home.database)
    try:
        assert (await store.read(lambda tx: tx.tenants.get("acme"))) is not None
        stored = {a.key.name for a in await store.read(lambda tx: tx.agents.all("acme"))}
        for name in answered:
            assert name in stored
        state = await store.read(lambda tx: tx.operators.state())
        hashes = await store.read(lambda tx: tx.operators.hashes(0, state.size))
        assert len(hashes) == state.size
        with store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    finally:
        await asyncio.to_thread(store.close)
    # The stale endpoints file does not keep the next one from serving.
    assert (home.run / "endpoints.json").exists()
    async with running_coordinator(home.path) as again:
        assert (await again.rollout("acme", digest)).agents >= len(answered)


def test_no_home_says_init(tmp_path: Path) -> None:
    env = {**os.environ, "EXCLAVE_COORDINATOR_HOME": str(tmp_path / "none")}
    done = subprocess.run([*PROGRAM, "serve"], capture_output=True, text=True, timeout=20, env=env)
    assert done.returncode == 1
    assert "init" in done.stderr
