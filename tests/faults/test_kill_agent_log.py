"""The log under kill -9 and on a full disk: what was promised is there, and nothing half of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave_agent.audit.store import LogReader
from exclave_agent.audit.verify import verify_log
from exclave_agent.storage.home import VAULT_KEY, read_log
from exclave_protocol.disclosure import parse
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_testing.audit import ORIGIN
from exclave_testing.homes import KEY, Home, execute, intent, state

TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("EXCLAVE_KILL_ROUNDS", "12"))
"""The bounded run of every day; a long run sets more."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def kill_after(home: Path, seconds: float, producers: int) -> list[tuple[int, bytes]]:
    """Run the appender, kill -9 it `seconds` after its first promise; all its promises."""
    command = [sys.executable, "-m", "exclave_testing.appender", str(home), str(producers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, "the appender ended before it appended"
        time.sleep(seconds)  # the moment of the kill is the test's subject
        process.kill()
        lines = [first, *process.stdout.readlines()]
    promised = [line.split() for line in lines if line.endswith(b"\n")]
    return [(int(seq), bytes.fromhex(digest.decode())) for seq, digest, _ in promised]


def check(home: Path, promised: list[tuple[int, bytes]]) -> None:
    """Every promise is kept, the chain holds, every commitment has its value."""
    verified = read_log(home, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))

    def everything(reader: LogReader) -> None:
        for seq, digest in promised:
            stored = reader.leaf(seq)
            assert stored is not None, f"promised leaf {seq} is gone"
            assert stored.hash == digest
        intents: set[str] = set()
        for stored in reader.scan(0):
            leaf = decode_leaf(stored.data)
            values = {parse(text).digest for text in reader.private(stored.seq)}
            # The others are decoys; all of a leaf's values lie in one row, there or not at all.
            assert values <= set(leaf.sd) and bool(values) == bool(leaf.sd), (
                f"leaf {stored.seq} lacks values"
            )
            if leaf.type is LeafType.INTENT:
                intents.add(str(leaf.body["decision"]))
            elif leaf.type is LeafType.RESULT:
                assert leaf.body["decision"] in intents, "a RESULT without its INTENT"

    read_log(home, everything)
    assert verified.size > max(seq for seq, _ in promised)


@pytest.mark.timeout(300)
def test_kill_9_at_any_moment_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    moments = random.Random(20261122)
    promised: list[tuple[int, bytes]] = []
    for _ in range(ROUNDS):
        delay = moments.choice([0.0, 0.0005, 0.003, 0.02, 0.1]) * moments.uniform(0.5, 1.5)
        promised += kill_after(tmp_path, delay, producers=moments.choice([1, 3, 32]))
        check(tmp_path, promised)
    assert len({seq for seq, _ in promised}) == len(promised)


async def boot(home: Home) -> tuple[str, ...]:
    return (await home.boot()).closed


def test_the_next_start_closes_what_the_kill_left_open(tmp_path: Path) -> None:
    kill_after(tmp_path, 0.02, producers=32)

    async def start() -> tuple[str, ...]:
        async with Home(tmp_path) as home:
            return await boot(home)

    closed = asyncio.run(start())
    state_now = read_log(tmp_path, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))
    assert any(decision.endswith("-open") for decision in closed)
    assert not state_now.open_intents


def copy_home(source: Path, target: Path) -> None:
    """What a crash leaves: the files as they are."""
    target.mkdir(mode=0o700)
    (target / "identity").mkdir()
    shutil.copy(source / VAULT_KEY, target / VAULT_KEY)
    for name in ("state.db", "state.db-wal", "vault.db", "vault.db-wal"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)


async def test_every_cut_of_the_write_ahead_log_is_a_whole_log(tmp_path: Path) -> None:
    """Power loss may keep any prefix of state.db's WAL: each boots, at some former size."""
    live = tmp_path / "live"
    async with Home(live) as home:
        for number in range(12):
            await home.log.append(intent(f"d{number}"))
        frozen = tmp_path / "frozen"
        copy_home(live, frozen)
    wal = (frozen / "state.db-wal").read_bytes()
    sizes = []
    for cut in [0, 32, *range(100, len(wal), 4099), len(wal)]:
        target = tmp_path / f"cut{cut}"
        copy_home(frozen, target)
        (target / "state.db-wal").write_bytes(wal[:cut])
        async with Home(target) as home:
            await boot(home)
        check_open = read_log(target, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))
        sizes.append(check_open.size)
        shutil.rmtree(target)
    assert len(set(sizes)) > 3
    assert sizes == sorted(sizes)


def can_mount() -> bool:
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="no user namespaces here: a small disk cannot be made")
def test_a_full_disk_refuses_and_keeps_nothing_half(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = tmp_path / "small"
    out.mkdir()
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=4m tmpfs {small} && "
        f"{sys.executable} -m exclave_testing.fulldisk {small} && cp -a {small}/home {out}/home"
    )
    run = subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["refused"] == ["storage_full"]
    assert said["promised"] > 50
    assert said["kept"][-1] == "after"
    home = out / "home"
    verified = read_log(home, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))
    assert verified.size == said["size"] == said["size_when_full"] + 3

    def decisions(reader: LogReader) -> None:
        for name in said["kept"]:
            first, last = reader.by_decision(name)
            assert reader.private(first)
            assert reader.private(last)

    read_log(home, decisions)
    assert execute(state(home), "PRAGMA quick_check") == [("ok",)]
