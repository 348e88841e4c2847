"""The audit log against witness-log: durable appends and verified leaves per second.

An append of ours is one INTENT leaf as the decision path writes it: two private values sealed
in the vault and on disk, then the chained leaf on disk. An append of witness-log is its intent
leaf and the sync that makes it durable; it keeps no values. Rounds alternate, so that a slow
minute of the disk falls on both; every figure is the median of its rounds. `fsync_ms` is the
floor that the disk sets, measured in the same rounds.

Verified: the hash of every leaf, the RFC 6962 root, and the signature of the checkpoint over
it, which is also what witness-log's verifier does with a dossier; both get their input in
memory. The strict reading of every field and of the chain is measured beside it.

Raw is sqlite3 alone: rows of the size of ours, leaf and sealed values together, 64 a commit. The
coordinator's side (leaves a second over gRPC, a bundle of 100,000 records): bench/audit_centre.py.

A disk with a fast fsync flatters whoever calls it once for every append. So both sides also
run on a disk whose fsync takes 5 ms, as on machines without a protected write cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from common import Bar, fsync_ms, write_results
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from slow_fsync import environment

from exclave_agent.audit import drafts
from exclave_agent.audit.append import Log
from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.verify import verify_log
from exclave_agent.ports import LeafDraft
from exclave_agent.storage.home import Storage, read_log
from exclave_agent.system import SystemClock, SystemIds, SystemRng
from exclave_protocol.checkpoint import log_origin, open_checkpoint
from exclave_protocol.note import SigningKey, VerifyKey
from exclave_protocol.tree import leaf_hash, root_of

HERE = Path(__file__).parent
ORIGIN = log_origin("bench.test", "acme", "edge", 1)
PRODUCERS = (1, 16, 64)
LEAVES = {1: 400, 16: 4000, 64: 9600}
"""Ours, a round."""
PEER_LEAVES = {1: 300, 16: 480, 64: 640}
SLOW_FSYNC_MS = 5.0
VERIFIED = 50_000
ROUNDS = 5
BAR_APPENDS = 20.0
BAR_RAW = 0.5
BAR_VERIFY = 1.3
BAR_VERIFIED = 250_000.0
"""Leaves a second on one core."""
BAR_EXPORT = 10.0
"""Seconds for a bundle of 100,000 records."""

Figures = dict[str, float]


def record(ids: SystemIds) -> LeafDraft:
    """An INTENT of the decision path: about 830 bytes of leaf, two private values."""
    return LeafDraft(
        "INTENT",
        {
            "decision": ids.new(),
            "action": "chat",
            "actor": {"key": "12345678", "roles": ["analyst"]},
            "model": {"name": "smollm2", "digest": "a" * 64, "runtime": "llama"},
            "policy": {"digest": "b" * 64, "rule": "allow-chat"},
            "release": {"digest": "c" * 64, "version": 3},
            "params": {"max_tokens": 64, "temperature": "0.7"},
            "received": "2026-11-22T21:30:00.123456789Z",
        },
        {"prompt": [{"role": "user", "content": "x" * 300}], "context": []},
        "12345678",
    )


def quantiles(latencies: list[float], spent: float) -> Figures:
    """Rate and latency of one round."""
    return {
        "per_second": len(latencies) / spent,
        "p50_ms": statistics.median(latencies) * 1e3,
        "p99_ms": statistics.quantiles(latencies, n=100)[98] * 1e3,
    }


async def appends(log: Log, producers: int, count: int) -> Figures:
    """`count` durable appends by `producers` tasks."""
    ids = SystemIds()
    latencies: list[float] = []

    async def produce() -> None:
        for _ in range(count // producers):
            draft = record(ids)
            started = time.perf_counter()
            await log.append(draft)
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(producers):
            group.create_task(produce())
    return quantiles(latencies, time.perf_counter() - started)


def peer(python: Path, *arguments: object, disk: dict[str, str] | None = None) -> dict[str, Any]:
    """Run witness-log's side in its own environment and a fresh folder."""
    what, *rest = map(str, arguments)
    return aside([str(python), str(HERE / "audit_peer.py"), what], rest, disk)


def aside(command: list[str], rest: list[str], disk: dict[str, str] | None) -> dict[str, Any]:
    """Run one side in a process of its own, which prints its figures."""
    with tempfile.TemporaryDirectory(prefix="exclave-side-") as folder:
        done = subprocess.run(
            [*command, folder, *rest],
            check=True,
            env=disk,
            capture_output=True,
            text=True,
            timeout=600,
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def row_bytes(home: Path) -> tuple[int, float]:
    """Bytes of one of our rows, leaf and sealed values; bytes on disk for each row, all in all."""
    with sqlite3.connect(home / "state.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows, size = connection.execute(
            "SELECT count(*), avg(length(data) + length(hash) + length(coalesce(sealed, x'')) "
            "+ length(coalesce(decision, ''))) FROM leaf"
        ).fetchone()
    whole = sum(path.stat().st_size for path in home.glob("*.db*"))
    return int(size), whole / rows


def raw_rows(folder: Path, size: int, batch: int = 64, batches: int = 100) -> float:
    """Rows of that size per second, group-committed by nothing but sqlite3."""
    path = folder / "raw.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, data BLOB)")
    data = os.urandom(size)
    started = time.perf_counter()
    for _ in range(batches):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO t (data) VALUES (?)", [(data,)] * batch)
        connection.execute("COMMIT")
    spent = time.perf_counter() - started
    connection.close()
    return batch * batches / spent


def median_of(rounds: list[Figures]) -> Figures:
    """Figure by figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def verified(leaves: list[bytes], note: bytes, key: VerifyKey) -> float:
    """Leaves per second: hashes, tree, signature; the best of three."""
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        checkpoint = open_checkpoint(note, key)
        assert checkpoint.size == len(leaves)
        assert root_of(map(leaf_hash, leaves)) == checkpoint.root
        best = max(best, len(leaves) / (time.perf_counter() - started))
    return best


async def measure_appends(
    folder: Path, python: Path, rounds: int
) -> tuple[dict[tuple[str, int], list[Figures]], list[float], list[float]]:
    """All rounds, sides alternating."""
    found: dict[tuple[str, int], list[Figures]] = {}
    floors, raws = [], []
    key = SigningKey(ORIGIN, Ed25519PrivateKey.generate()).verify_key
    async with Storage(folder / "home", SystemRng()) as storage:
        log = Log(storage.open_log(ORIGIN, key), SystemClock(), SystemRng())
        await log.append(drafts.genesis(agent="spiffe://bench.test", vkey=key.vkey, version="0"))
        await appends(log, 64, 2000)  # warm
        for index in range(rounds):
            floors.append(fsync_ms(folder))
            raws.append(raw_rows(folder, row_bytes(folder / "home")[0]))
            for producers in PRODUCERS:
                ours = await appends(log, producers, LEAVES[producers])
                count = PEER_LEAVES[producers] // producers
                theirs = await asyncio.to_thread(peer, python, "appends", producers, count)
                found.setdefault(("exclave", producers), []).append(ours)
                found.setdefault(("witness-log", producers), []).append(theirs)
                print(
                    f"round {index + 1}/{rounds}, {producers} producers: "
                    f"{ours['per_second']:,.0f}/s against {theirs['per_second']:,.0f}/s",
                    flush=True,
                )
    return found, floors, raws


async def own_side(folder: Path, producers: int, count: int) -> Figures:
    """Our appends in this process, in a home of their own."""
    key = SigningKey(ORIGIN, Ed25519PrivateKey.generate()).verify_key
    async with Storage(folder / "home", SystemRng()) as storage:
        log = Log(storage.open_log(ORIGIN, key), SystemClock(), SystemRng())
        await log.append(drafts.genesis(agent="spiffe://bench.test", vkey=key.vkey, version="0"))
        return await appends(log, producers, count)


def measure_slow(folder: Path, python: Path, rounds: int) -> list[dict[str, Any]]:
    """Both sides on a disk with a slow fsync; empty where there is no C compiler."""
    disk = environment(folder, SLOW_FSYNC_MS)
    if disk is None:
        print("no C compiler: the slow disk is left out")
        return []
    rows = []
    for producers in PRODUCERS:
        ours, theirs = [], []
        for _ in range(rounds):
            command = [sys.executable, str(HERE / "audit.py"), "--side"]
            ours.append(aside(command, [str(producers), str(50 * producers)], disk))
            theirs.append(peer(python, "appends", producers, -(-128 // producers), disk=disk))
        mine, its = median_of(ours)["per_second"], median_of(theirs)["per_second"]
        rows.append(
            {
                f"fsync of {SLOW_FSYNC_MS:g} ms, producers": producers,
                "exclave/s": round(mine),
                "witness-log/s": round(its),
                "ratio": mine / its,
            }
        )
    return rows


async def fill(home: Path, key: SigningKey, count: int) -> tuple[list[bytes], bytes]:
    """A log of `count` leaves with its signed head."""
    async with Storage(home, SystemRng()) as storage:
        log = Log(storage.open_log(ORIGIN, key.verify_key), SystemClock(), SystemRng())
        await log.append(drafts.genesis(agent="spiffe://bench.test", vkey=key.vkey, version="0"))
        await appends(log, 64, count)
        signed = await Checkpointer(log.store, key).sign()
        leaves = await log.store.read(lambda reader: reader.leaves(0, count * 2, 1 << 40))
    return leaves, signed.note


def measure_centre() -> dict[str, float]:
    """The coordinator's side, in a process of its own."""
    figures = aside([sys.executable, str(HERE / "audit_centre.py")], [], None)
    return {name: float(value) for name, value in figures.items()}


def measure_verify(folder: Path, python: Path) -> list[dict[str, Any]]:
    """Verification, one process and one thread on each side."""
    key = SigningKey(ORIGIN, Ed25519PrivateKey.generate())
    home = folder / "verified"
    leaves, note = uvloop.run(fill(home, key, VERIFIED))
    theirs = [peer(python, "verify", VERIFIED) for _ in range(2)]
    ours = max(verified(leaves, note, key.verify_key) for _ in range(2))
    started = time.perf_counter()
    read_log(home, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=key.verify_key))
    strict = len(leaves) / (time.perf_counter() - started)
    best = max(float(each["per_second"]) for each in theirs)
    size = sum(map(len, leaves)) // len(leaves)
    return [
        {"verify": "exclave: hashes, tree, signature", "leaves/s": ours, "bytes/leaf": size},
        {"verify": "exclave: and every field, from disk", "leaves/s": strict, "bytes/leaf": size},
        {"verify": f"witness-log {theirs[0]['version']}", "leaves/s": best, "bytes/leaf": ""},
    ]


def table(found: dict[tuple[str, int], list[Figures]]) -> list[dict[str, Any]]:
    """Medians, a row for each number of producers."""
    rows = []
    for producers in PRODUCERS:
        ours = median_of(found["exclave", producers])
        theirs = median_of(found["witness-log", producers])
        rows.append(
            {
                "producers": producers,
                "exclave/s": round(ours["per_second"]),
                "p50 ms": ours["p50_ms"],
                "p99 ms": ours["p99_ms"],
                "witness-log/s": round(theirs["per_second"]),
                "its p50 ms": theirs["p50_ms"],
                "its p99 ms": theirs["p99_ms"],
                "ratio": ours["per_second"] / theirs["per_second"],
            }
        )
    return rows


def main() -> None:
    """Measure, print, write bench/results/audit.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-venv", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="measure on this folder's disk")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        place, producers, count = arguments.side
        print(json.dumps(uvloop.run(own_side(Path(place), int(producers), int(count)))))
        return
    python = arguments.peers_venv.absolute() / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="exclave-audit-", dir=arguments.folder) as name:
        folder = Path(name)
        checks = measure_verify(folder, python)
        slow = measure_slow(folder, python, min(3, arguments.rounds))
        centre = measure_centre()
        found, floors, raws = uvloop.run(measure_appends(folder, python, arguments.rounds))
        size, on_disk = row_bytes(folder / "home")
    rows = table(found)
    raw = statistics.median(raws)
    bars = [Bar("appends at 64 / witness-log's", rows[-1]["ratio"], BAR_APPENDS, "higher")]
    if slow:
        title = f"the same, fsync of {SLOW_FSYNC_MS:g} ms"
        bars.append(Bar(title, slow[-1]["ratio"], BAR_APPENDS, "higher"))
    ratio = checks[0]["leaves/s"] / checks[2]["leaves/s"]
    bars.append(Bar("verified / witness-log's", ratio, BAR_VERIFY, "higher"))
    of_raw = rows[-1]["exclave/s"] / raw
    bars += [
        Bar("appends at 64 / raw rows of the same size", of_raw, BAR_RAW, "higher"),
        Bar("verified leaves/s", checks[0]["leaves/s"], BAR_VERIFIED, "higher"),
        Bar("bundle of 100k records, s", centre["export_seconds"], BAR_EXPORT, "lower"),
    ]
    floor = {
        "fsync ms": statistics.median(floors),
        "bytes/row": size,
        "raw rows/s, 64 a commit": round(raw),
        "of raw": of_raw,
    }
    decision = {
        "one decision at a time adds ms (two leaves)": 2 * rows[0]["p50 ms"],
        "bytes on disk": round(2 * on_disk),
        "bytes on the wire": round(2 * centre["wire_bytes_leaf"]),
    }
    rows += [*slow, floor, decision, centre, *checks]
    versions = {"witness-log": checks[2]["verify"].split()[1], "sqlite": sqlite3.sqlite_version}
    write_results("audit", rows=rows, bars=bars, versions=versions)


if __name__ == "__main__":
    main()
