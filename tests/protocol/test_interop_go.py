"""Go's own sumdb packages, the formats' first implementation, accept what we write: our frozen
vectors, and a whole log as tiles; and refuse it when it was changed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.tiled import write_tiles
from exclave_testing.audit import signing_key
from exclave_testing.homes import Home, intent
from exclave_testing.vectors import FOLDER

LEAVES = 700
"""Two full tiles, a partial one, and a level above."""

PLAIN = signing_key().plain_key
"""Of the term, as verifiers take it that know nothing of terms."""


@pytest.fixture(scope="session")
def interop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built without a network from the packages that the Go tool itself vendors."""
    folder = tmp_path_factory.mktemp("go")
    go = Path(sys.executable).parent / "go"
    environment = os.environ | {
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }

    def run(*words: str | Path, cwd: Path) -> str:
        done = subprocess.run(
            [str(go), *map(str, words)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    vendored = Path(run("env", "GOROOT", cwd=folder)) / "src/cmd/vendor/golang.org/x/mod/sumdb"
    module = folder / "interop"
    shutil.copytree(FOLDER / "interop", module)
    for package in ("note", "tlog"):
        shutil.copytree(vendored / package, module / package)
    run("build", "-o", folder / "check", ".", cwd=module)
    return folder / "check"


@pytest.fixture(scope="module")
def log_as_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real home's log, exported."""
    folder = tmp_path_factory.mktemp("tiles")

    async def write() -> None:
        async with Home(folder / "home") as home:
            for number in range(LEAVES - 1):
                await home.log.append(intent(f"d{number}"))
            await Checkpointer(home.database, signing_key()).sign()
            await home.database.read(
                lambda log: write_tiles(log, folder / "log", cosigned=False, entries=True)
            )

    asyncio.run(write())
    return folder / "log"


def verdict(interop: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(interop), *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.timeout(300)
def test_go_accepts_our_vectors(interop: Path) -> None:
    done = verdict(interop, FOLDER)
    assert (done.returncode, done.stdout) == (0, "all vectors hold\n"), done.stderr


@pytest.mark.timeout(300)
def test_go_reads_our_log_from_its_tiles(interop: Path, log_as_tiles: Path) -> None:
    done = verdict(interop, "tiles", log_as_tiles, PLAIN.vkey)
    assert (done.returncode, done.stdout) == (0, f"{LEAVES} leaves hold\n"), done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["checkpoint", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2"])
def test_go_refuses_a_file_that_was_changed(
    interop: Path, log_as_tiles: Path, tmp_path: Path, name: str
) -> None:
    chance = random.Random(name)
    for attempt in range(4):
        changed = tmp_path / str(attempt)
        shutil.copytree(log_as_tiles, changed)
        data = bytearray((changed / name).read_bytes())
        # What stands below a checkpoint's first signature line is not for a stock verifier.
        part = data.index(b"\n\n") if name == "checkpoint" else len(data)
        data[chance.randrange(part)] ^= 1 << chance.randrange(7)
        (changed / name).write_bytes(data)
        assert verdict(interop, "tiles", changed, PLAIN.vkey).returncode == 1


@pytest.mark.timeout(300)
def test_go_refuses_a_record_that_was_changed(
    interop: Path, log_as_tiles: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "log"
    shutil.copytree(log_as_tiles, changed)
    bundle = changed / "tile/entries/001"
    bundle.write_bytes(bundle.read_bytes().replace(b'"d300"', b'"d301"', 1))
    done = verdict(interop, "tiles", changed, PLAIN.vkey)
    assert done.returncode == 1 and "record" in done.stderr


def test_go_believes_no_other_key(interop: Path, log_as_tiles: Path) -> None:
    other = signing_key(seed=b"b" * 32).plain_key.vkey
    assert verdict(interop, "tiles", log_as_tiles, other).returncode == 1
