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

    from exclave_policy.evaluate import compile_pack
    from exclave_policy.model import Request
    from exclave_policy.pack import load_directory

    policy = compile_pack(load_directory(HERE.parent / "policies" / "packs" / "starter"))
    request = Request("k", ("analyst",), "chat", "stub", max_tokens=128, prompt_bytes=900)
    assert policy.evaluate(request).allowed
    return 1000 * min(timeit.repeat(lambda: policy.evaluate(request), number=500, repeat=5)) / 500


def row(concurrency: int, bare: Side, governed: Side, policy: float) -> dict[str, Any]:
    """One concurrency's figures, and where the added time goes."""
    parts = {name: round(mean(values), 3) for name, values in governed.parts.items()}
    return {
        "concurrency": concurrency,
        "requests_a_side": len(governed.milliseconds),
        "bare_p50_ms": round(bare.quantile(0.5), 3),
        "governed_p50_ms": round(governed.quantile(0.5), 3),
        "added_p50_ms": round(governed.quantile(0.5) - bare.quantile(0.5), 3),
        "bare_p99_ms": round(bare.quantile(0.99), 3),
        "governed_p99_ms": round(governed.quantile(0.99), 3),
        "added_p99_ms": round(governed.quantile(0.99) - bare.quantile(0.99), 3),
        "bare_cpu_ms": round(mean(bare.cpu), 3),
        "governed_cpu_ms": round(mean(governed.cpu), 3),
        "part_policy_ms": round(policy, 3),
        **{f"part_{name.replace(' ', '_')}_ms": value for name, value in sorted(parts.items())},
    }


def where(found: dict[str, Any]) -> str:
    """In words, for the highest concurrency."""
    cpu = found["governed_cpu_ms"] - found["bare_cpu_ms"]
    return (
        f"at {found['concurrency']} callers governance adds {found['added_p50_ms']} ms (p50) and "
        f"{found['added_p99_ms']} ms (p99). On the path: RESULT until durable "
        f"{found.get('part_RESULT_until_durable_ms')} ms, policy {found['part_policy_ms']} ms, key "
        f"ring {found.get('part_key_ring_ms')} ms; INTENT "
        f"({found.get('part_INTENT_until_durable_ms')} ms) overlaps with the model. Governance "
        f"costs {cpu:.3f} ms of processor time a request, the rest is waiting for it: both servers "
        "have one event loop, and its queue grows with the work in it."
    )


def measure(rounds: int) -> list[dict[str, Any]]:
    """All concurrencies, alternating."""
    policy = policy_ms()
    rows = []
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
                rows.append(row(concurrency, sides["bare"], sides["governed"], policy))
                print(json.dumps(rows[-1], indent=1), flush=True)
        finally:
            for server in servers:
                server.close()
    return rows


def main() -> None:
    """Measure, print, write bench/results/governance.json."""
    from common import Bar, write_results

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each side")
    rows = measure(parser.parse_args().rounds)
    by_load = {each["concurrency"]: each for each in rows}
    note = where(by_load[64])
    print(note)
    bars = [
        Bar("added p50 at 1 (ms)", by_load[1]["added_p50_ms"], BAR_P50_AT_1, "lower"),
        Bar("added p99 at 16 (ms)", by_load[16]["added_p99_ms"], BAR_P99_AT_16, "lower"),
    ]
    rows.append({"where_the_time_goes": note})
    versions = {name: version(name) for name in ("exclave", "uvicorn", "starlette", "uvloop")}
    write_results("governance", rows=rows, bars=bars, versions=versions)


if __name__ == "__main__":
    main()
