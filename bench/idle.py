"""Idle cost: the agent's memory without models, and how long `--help` takes.

Measures whole processes from outside. A joined agent with a live session, an HTTP server and
open databases counts as idle once its resident memory has stopped growing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil
from common import Bar, write_results

from exclave_testing.processes import BIN, World, run, wait_for


def help_seconds(program: str, times: int = 9) -> float:
    """Median wall time of `program --help`, after one warm-up."""
    run([BIN / program, "--help"])
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        run([BIN / program, "--help"])
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def settled_rss(process: psutil.Process) -> float:
    """Resident MB of a process and its children once three readings agree within 1 %."""
    readings: list[float] = []

    def settled() -> bool:
        time.sleep(0.5)
        family = [process, *process.children(recursive=True)]
        readings.append(sum(p.memory_info().rss for p in family) / 1e6)
        last = readings[-3:]
        return len(last) == 3 and max(last) - min(last) < 0.01 * max(last)

    wait_for("the agent's memory to settle", settled, 60)
    return readings[-1]


def main() -> None:
    """Measure, print, write bench/results/idle.json."""
    with tempfile.TemporaryDirectory(prefix="exclave-idle-") as folder:
        world = World(Path(folder))
        try:
            world.up()
            world.tenant("acme", ("alice",), 1)
            agent = world.add_agent("acme", "idle")
            agent.start()
            assert agent.service.process is not None
            rss = settled_rss(psutil.Process(agent.service.process.pid))
        finally:
            world.close()
    programs = ("exclave-agent", "exclave-coordinator", "exclave", "exclave-verify")
    helps = {program: help_seconds(program) for program in programs}
    rows = [{"what": "agent idle RSS, MB", "value": round(rss, 1)}]
    rows += [{"what": f"{name} --help, s", "value": round(t, 3)} for name, t in helps.items()]
    bars = [
        Bar("agent idle RSS (MB)", rss, 90, "lower"),
        Bar("exclave-agent --help (s)", helps["exclave-agent"], 0.3, "lower"),
    ]
    write_results("idle", rows=rows, bars=bars)


if __name__ == "__main__":
    main()
