"""The agent as a system service: exposure, size, time to ready, restart, memory, idle cost.

Everything runs in a booted Debian 12 (tests/exclave_testing/sandbox.py) from the built packages,
with a coordinator beside it. Peers' exposure was measured once from their released unit files
(docs/hardening.md); their sizes and times are not ours to measure here.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Bar, write_results

from exclave_testing.installed import AGENT, INSIDE, Installed, binds
from exclave_testing.processes import ROOT, wait_for
from exclave_testing.sandbox import Sandbox, debian_tree, why_not

UNITS = ROOT / "packaging" / "systemd" / "system"
PEERS = {
    "ollama": 9.2,
    "tailscaled": 9.6,
    "otelcol": 9.2,
    "spire-agent": 6.4,
    "hardened vector": 2.2,
}
BARS = {
    "exclave-agent.service": 1.3,
    "exclave-worker@.service": 0.5,
    "exclave-coordinator.service": 1.5,
}
TICKS = 100
"""Of a second, in /proc/PID/stat (USER_HZ)."""


def exposure(unit: str) -> float:
    """What `systemd-analyze security --offline=true` says of a unit file."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def seconds(work: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def used(box: Sandbox, pid: int) -> tuple[float, float]:
    """Seconds of processor time so far, and megabytes resident, of a process inside."""
    fields = box.read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    status = box.read_text(f"/proc/{pid}/status")
    rss = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]  # always there
    return (int(fields[11]) + int(fields[12])) / TICKS, rss * 1024 / 1e6


def sent(box: Sandbox) -> int:
    """Bytes, both ways, of the agent's connections to the coordinator so far."""
    text = box.run(["ss", "-tinH", "dst", "127.0.0.1:7443"]).stdout
    return sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", text)))


def measure(made: Installed, idle: float) -> dict[str, float]:
    """Everything that needs the running service."""
    box = made.box
    made.centre_up()
    made.release([f"fraud={INSIDE['fraud']}/model.onnx,runtime=onnx"])
    made.dpkg("exclave-agent", "exclave-runtime-cpu")
    token = made.token()
    version = ["exclave-agent", "--version"]
    box.run(version)
    bare = statistics.median(seconds(lambda: box.run(["true"])) for _ in range(15))
    asked = statistics.median(seconds(lambda: box.run(version)) for _ in range(15))
    figures = {"--version, ms": max(0.0, asked - bare) * 1e3}
    figures["install to READY, s"] = seconds(lambda: made.agent("install", "--token-file", token))
    restarts = [seconds(lambda: box.sh("systemctl restart exclave-agent")) for _ in range(5)]
    figures["restart, s"] = statistics.median(restarts)
    wait_for("a session", lambda: made.status().get("coordinator", {}).get("connected"))
    pid = int(box.show(AGENT, "MainPID")["MainPID"])
    time.sleep(15)  # what a start leaves to do is done
    cpu, _ = used(box, pid)
    moved = sent(box)
    time.sleep(idle)
    after, rss = used(box, pid)
    figures["idle RSS, MB"] = rss
    figures["idle CPU, % of a core"] = (after - cpu) / idle * 100
    figures["idle traffic to the coordinator, kB/s"] = (sent(box) - moved) / idle / 1e3
    return figures


def main() -> int:
    """Measure, print, write; exits 0 whatever the bars say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of idleness to measure")
    given = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"no sandbox here: {reason}")
        return 0
    subprocess.run([sys.executable, ROOT / "packaging" / "packages" / "build.py"], check=True)
    packages = ROOT / "build" / "packages"
    size = (packages / "exclave-agent_0.1.0_amd64.deb").stat().st_size / 1e6
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(
            debian_tree("bookworm"), "bench", Path(folder), binds=binds(packages), on_disk=True
        ) as box,
    ):
        figures = measure(Installed(box), given.idle)
    scores = {unit: exposure(unit) for unit in BARS}
    rows: list[dict[str, Any]] = [
        {"unit": unit, "exposure": score} for unit, score in {**scores, **PEERS}.items()
    ]
    rows += [{"figure": name, "value": value} for name, value in figures.items()]
    rows.append({"figure": "agent .deb without runtimes, MB", "value": size})
    bars = [Bar(f"exposure of {unit}", scores[unit], bar, "lower") for unit, bar in BARS.items()]
    bars += [
        Bar("agent .deb without runtimes, MB", size, 35, "lower"),
        Bar("install to READY, s", figures["install to READY, s"], 3, "lower"),
        Bar("restart, s", figures["restart, s"], 1, "lower"),
        Bar("idle RSS, MB", figures["idle RSS, MB"], 90, "lower"),
        Bar("--version, ms", figures["--version, ms"], 100, "lower"),
        Bar("idle CPU, % of a core", figures["idle CPU, % of a core"], 0.3, "lower"),
        Bar(
            "idle traffic to the coordinator, kB/s",
            figures["idle traffic to the coordinator, kB/s"],
            1,
            "lower",
        ),
    ]
    write_results("service", rows, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())
