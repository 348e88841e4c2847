"""What governance adds to a request: the agent's HTTP path against the same path without it.

A stub model answers after 50 ms. The governed server asks the key ring and the starter policy,
appends INTENT and RESULT to a real audit log (fsync), and validates; the bare server is the same
application around a pass-through. Each runs in a process of its own, the callers in a third.
Rounds alternate, so that a slow minute of the machine falls on both. "Added" is the difference
of the two distributions' quantiles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import Bar, fsync_ms, write_results

HERE = Path(__file__).parent
LOADS = {1: 40, 16: 960, 64: 2560}
"""Concurrency -> requests a round and side."""
ROUNDS = 6
BAR_P50_AT_1 = 1.0
BAR_P99_AT_16 = 2.0


class Server:
    """One server process."""

    def __init__(self, kind: str, home: Path) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, HERE / "governance_server.py", kind, home],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._read()
        self.url: str = ready["url"]
        self.key: str = ready["key"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.kind} server ended: its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def figures(self) -> dict[str, Any]:
        """CPU seconds and mean times of parts since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("figures\n")
        self._process.stdin.flush()
        return self._read()

    def load(self, concurrency: int, requests: int) -> list[float]:
        """Milliseconds of each request."""
        command = [sys.executable, str(HERE / "governance_load.py"), self.url, self.key]
        done = subprocess.run(
            [*command, str(concurrency), str(requests)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=300,
        )
        return [1000 * each for each in json.loads(done.stdout)]

    def close(self) -> None:
        """End it, and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Side:
    """What one kind of server showed at one concurrency."""

    milliseconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Milliseconds of processor time a request, by round."""
    parts: dict[str, list[float]] = field(default_factory=dict)

    def take(self, server: Server, concurrency: int, requests: int) -> None:
        """One round."""
        server.figures()
        measured = server.load(concurrency, requests)
        figures = server.figures()
        self.milliseconds += measured
        self.cpu.append(1000 * figures["cpu"] / len(measured))
        for name, value in figures["spent"].items():
            self.parts.setdefault(name, []).append(value)

    def quantile(self, q: float) -> float:
        """Of the pooled requests, in milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def mean(values: list[float]) -> float:
    """Arithmetic."""
    return sum(values) / len(values)


def policy_ms() -> float:
    """Mean milliseconds of one evaluation of the starter policy."""
    import timeit

    from exclave_policy.compile import compile_pack
    from exclave_policy.model import Request
    from exclave_policy.pack import load_directory

    policy = compile_pack(load_directory(HERE.parent / "policies" / "packs" / "starter"))
    request = Request("k", ("analyst",), "chat", "stub", max_tokens=128, prompt_bytes=900)
    assert policy.evaluate(request).allowed
    return 1000 * min(timeit.repeat(lambda: policy.evaluate(request), number=500, repeat=5)) / 500


def row(concurrency: int, bare: Side, governed: Side) -> dict[str, Any]:
    """One concurrency's figures, in milliseconds."""
    return {
        "concurrency": concurrency,
        "requests a side": len(governed.milliseconds),
        "bare p50": round(bare.quantile(0.5), 3),
        "governed p50": round(governed.quantile(0.5), 3),
        "added p50": round(governed.quantile(0.5) - bare.quantile(0.5), 3),
        "bare p99": round(bare.quantile(0.99), 3),
        "governed p99": round(governed.quantile(0.99), 3),
        "added p99": round(governed.quantile(0.99) - bare.quantile(0.99), 3),
    }


def parts(concurrency: int, bare: Side, governed: Side, policy: float) -> dict[str, Any]:
    """Where the added time goes: milliseconds a request."""
    means = {name: round(mean(values), 3) for name, values in sorted(governed.parts.items())}
    return {
        "concurrency": concurrency,
        **means,
        "policy": round(policy, 3),
        "bare processor time": round(mean(bare.cpu), 3),
        "governed processor time": round(mean(governed.cpu), 3),
    }


def where(found: dict[str, Any], spent: dict[str, Any], fsync: float) -> str:
    """In words, for the highest concurrency."""
    cpu = spent["governed processor time"] - spent["bare processor time"]
    return (
        f"at {found['concurrency']} callers governance adds {found['added p50']} ms (p50) and "
        f"{found['added p99']} ms (p99). On the path: RESULT until durable "
        f"{spent['RESULT until durable']} ms (one fsync of {fsync:.3f} ms and the queue before "
        f"them), policy {spent['policy']} ms, key ring {spent['key ring']} ms; INTENT "
        f"({spent['INTENT until durable']} ms) overlaps with the model. Governance costs "
        f"{cpu:.3f} ms of processor time a request; the rest is waiting for it: each server has "
        "one event loop, and its queue grows with the work in it."
    )


def measure(rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All concurrencies, the sides alternating: latencies, and where they come from."""
    policy = policy_ms()
    rows, spent = [], []
    with tempfile.TemporaryDirectory(prefix="exclave-governance-") as folder:
        servers: list[Server] = []
        try:
            for kind in ("bare", "governed"):
                servers.append(Server(kind, Path(folder) / kind))
            for concurrency, requests in LOADS.items():
                sides = {server.kind: Side() for server in servers}
                for index in range(rounds):
                    for server in servers if index % 2 else reversed(servers):
                        sides[server.kind].take(server, concurrency, requests)
                rows.append(row(concurrency, sides["bare"], sides["governed"]))
                spent.append(parts(concurrency, sides["bare"], sides["governed"], policy))
                print(f"{concurrency} callers: done", flush=True)
        finally:
            for server in servers:
                server.close()
    return rows, spent


def main() -> None:
    """Measure, print, write bench/results/governance.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each side")
    fsync = fsync_ms()
    rows, spent = measure(parser.parse_args().rounds)
    fsync = (fsync + fsync_ms()) / 2
    note = where(rows[-1], spent[-1], fsync)
    by_load = {each["concurrency"]: each for each in rows}
    bars = [
        Bar("added p50 at 1 (ms)", by_load[1]["added p50"], BAR_P50_AT_1, "lower"),
        Bar("added p99 at 16 (ms)", by_load[16]["added p99"], BAR_P99_AT_16, "lower"),
    ]
    versions = {name: version(name) for name in ("uvicorn", "starlette", "uvloop", "msgspec")}
    more: list[dict[str, Any]] = [{"fsync, ms": round(fsync, 3)}, {"where the time goes": note}]
    write_results("governance", rows=[*rows, *spent, *more], bars=bars, versions=versions)


if __name__ == "__main__":
    main()
