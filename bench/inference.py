"""Generated tokens per second through the governed HTTP path, against llama.cpp's own servers.

The agent runs as it does for a user: enrolled, with a signed release, every answer recorded.
Beside it, with the same model file, threads, slots and context: llama.cpp's server (PyPI
xllamacpp, at its best: see inference_peer.py) and `python -m llama_cpp.server`. The callers ask
greedily, in a closed loop, and read streams; prompts share nothing, or a beginning of about 600
tokens. All servers stay up; their turns alternate within each round, so that a slow minute of
the machine falls on all, and a bar is the median of the rounds' ratios.

Every server that decodes together has eight slots, which is our default: sixteen callers queue
at all of them alike. llama_cpp.server answers one at a time and is asked by one and by eight
callers only. The row "exclave runtime" is our scheduler without HTTP and governance.

Then a mixed load: eight callers with long answers that can wait (xllamacpp has no such class:
there they are like any other) and one who asks short questions. And how much of the wall time
our scheduler spends inside the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from common import Bar, write_results
from inference_load import (
    MAX_TOKENS,
    WORKLOADS,
    Ask,
    Plan,
    Turns,
    first_token_ratio,
    measure,
    over_http,
    over_runtime,
    ratio,
    ratio_rows,
    rows,
)
from inference_mixed import Mixed, Share, engine_share, mixed_load
from inference_servers import Setting, governed_agent, llama_cpp_server, peer_version, xllamacpp

from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.restart import Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.models import sha256_of, smollm2_path

CLIENTS = (1, 4, 8, 16)
REQUESTS = {1: 4, 4: 12, 8: 24, 16: 32}
"""Clients -> requests of one turn."""
ROUNDS = 5
CONTEXT = 1024
SLOTS = 8
QUESTIONS = 20
OVERHEAD_SECONDS = 10.0
SLOW_CLIENTS = (1, 8)
"""Loads for the server that answers one at a time."""

GOVERNED, RUNTIME = "exclave", "exclave runtime"
XLLAMACPP, LLAMA_CPP = "xllamacpp", "llama_cpp.server"
MODEL = "smollm2"

RATES = (
    ("unrelated", XLLAMACPP, 1, 1.0),
    ("unrelated", XLLAMACPP, 8, 1.15),
    ("shared prefix", XLLAMACPP, 8, 1.2),
    ("unrelated", LLAMA_CPP, 8, 1.3),
)
"""Workload, peer, clients -> tokens a second of ours over theirs, at least."""
BAR_FIRST_TOKEN = 1.0
BAR_MIXED = 1.5
BAR_ENGINE = 0.97


class Bench:
    """What is up, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.setting = Setting(
            smollm2_path(), options.threads or physical_cores(), options.slots, CONTEXT
        )
        self.asks: dict[str, Ask] = {}
        self.supervisor: Supervisor
        self.turns: Turns = {}
        self.slow_turns: Turns = {}
        """Beside the server that answers one at a time."""
        self.mixed: dict[str, Mixed] = {}
        self.share: Share | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Bring up all servers."""
        options, setting = self.options, self.setting
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exclave-bench-")))
        # A connection a request: the servers close idle ones after times of their own.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                timeout=httpx.Timeout(300, connect=10), limits=limits, trust_env=False
            )
        )
        if options.base_url:
            keys = {"": options.api_key}
            self.asks[GOVERNED] = over_http(client, options.base_url, keys, MODEL)
        elif not options.runtime_only:
            url, keys = stack.enter_context(governed_agent(folder, setting))
            self.asks[GOVERNED] = over_http(client, url, keys, MODEL)
        # Pinged often, since the counters come with the answer.
        self.supervisor = await stack.enter_async_context(
            Supervisor(clock=SystemClock(), rng=SystemRng(), timings=Timings(ping=0.25))
        )
        parameters: dict[str, int | str | bool] = {
            "n_ctx": CONTEXT,
            "n_parallel": setting.slots,
            "threads": setting.threads,
        }
        model = setting.model
        models = await self.supervisor.load(
            [ModelSpec(MODEL, "llama", model, sha256_of(model), parameters)]
        )
        stack.push_async_callback(models.close)
        self.asks[RUNTIME] = over_runtime(models, MODEL)
        if options.peers_venv is not None:
            python = options.peers_venv.absolute() / "bin" / "python"
            for name, start in ((XLLAMACPP, xllamacpp), (LLAMA_CPP, llama_cpp_server)):
                url = stack.enter_context(start(python, setting))
                self.asks[name] = over_http(client, url, {"": "none"}, model.stem)

    async def run(self) -> None:
        """All parts."""
        async with contextlib.AsyncExitStack() as stack:
            await self.start(stack)
            await self.throughput()
            if self.options.questions:
                for name in (GOVERNED, XLLAMACPP):
                    if name in self.asks:
                        print(f"mixed load: {name}", flush=True)
                        self.mixed[name] = await mixed_load(
                            self.asks[name],
                            batch_clients=self.setting.slots,
                            questions=self.options.questions,
                            offset=60_000,
                            most_seconds=120,
                        )
            if self.options.overhead_seconds:
                print("scheduler overhead", flush=True)
                self.share = await engine_share(
                    self.supervisor,
                    MODEL,
                    self.asks[RUNTIME],
                    sequences=8,
                    seconds=self.options.overhead_seconds,
                )

    async def throughput(self) -> None:
        """Both workloads at every load; the slow server by itself, at fewer."""
        options = self.options
        fast = {name: ask for name, ask in self.asks.items() if name != LLAMA_CPP}
        requests, tokens = REQUESTS.__getitem__, options.tokens
        plan = Plan(options.clients, options.rounds, requests, tuple(WORKLOADS), tokens)
        both = [load for load in options.clients if load in SLOW_CLIENTS]
        if LLAMA_CPP in self.asks and both:
            # With us beside it again, since a ratio is one of the same round.
            pair = {name: self.asks[name] for name in (self.ours, LLAMA_CPP)}
            slow = Plan(both, options.rounds, requests, ("unrelated",), tokens)
            self.slow_turns = await measure(pair, slow)
        self.turns = await measure(fast, plan)

    @property
    def ours(self) -> str:
        """What the bars are about."""
        return GOVERNED if GOVERNED in self.asks else RUNTIME


def bars(bench: Bench) -> list[Bar]:
    """Those that were measured."""
    found = []
    ours = bench.ours
    for workload, theirs, load, bar in RATES:
        turns = bench.slow_turns if theirs == LLAMA_CPP else bench.turns
        if (workload, theirs, load) in turns and (workload, ours, load) in turns:
            value = ratio(turns, workload, ours, theirs, load)
            name = f"{ours} / {theirs}, {workload}, {load} clients"
            found.append(Bar(name, value, bar, "higher"))
    for workload in WORKLOADS:
        if (workload, XLLAMACPP, 8) in bench.turns:
            value = first_token_ratio(bench.turns, workload, ours, XLLAMACPP, 8)
            name = f"first token p95, {ours} / {XLLAMACPP}, {workload}, 8 clients"
            found.append(Bar(name, value, BAR_FIRST_TOKEN, "lower"))
    if ours in bench.mixed:
        name = "interactive beside batch: (first token p95 - a step) / idle p95"
        found.append(Bar(name, bench.mixed[ours].ratio, BAR_MIXED, "lower"))
    if bench.share is not None:
        name = "wall time inside the engine, 8 sequences"
        found.append(Bar(name, bench.share.engine, BAR_ENGINE, "higher"))
    return found


def report(bench: Bench) -> None:
    """Write and print what was measured."""
    table: list[dict[str, Any]] = rows(bench.turns)
    table += [row for row in rows(bench.slow_turns) if row["server"] == LLAMA_CPP]
    table += ratio_rows(bench.turns, bench.ours, XLLAMACPP)
    table += ratio_rows(bench.slow_turns, bench.ours, LLAMA_CPP)
    table += [mixed.row(name) for name, mixed in bench.mixed.items()]
    if bench.share is not None:
        table.append(bench.share.row())
    setting = bench.setting
    versions = {
        "llama-cpp-python": version("llama-cpp-python"),
        "model": setting.model.name,
        "threads": str(setting.threads),
        "slots": str(setting.slots),
        "tokens": str(bench.options.tokens),
        "context": str(setting.context),
    }
    if bench.options.peers_venv is not None:
        versions["xllamacpp"] = peer_version(bench.options.peers_venv, "xllamacpp")
    write_results(bench.options.name, table, bars(bench), versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers-venv", type=Path, help="environment with the peers installed")
    parser.add_argument("--base-url", help="a running agent's URL, instead of starting one")
    parser.add_argument("--api-key", default="", help="a key of that agent")
    parser.add_argument("--runtime-only", action="store_true", help="leave the agent out")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), choices=CLIENTS)
    parser.add_argument("--tokens", type=int, default=MAX_TOKENS, help="of an answer")
    parser.add_argument("--slots", type=int, default=SLOTS, help="of every server")
    parser.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="0: no mixed load")
    parser.add_argument(
        "--overhead-seconds", type=float, default=OVERHEAD_SECONDS, help="0: not measured"
    )
    parser.add_argument("--name", default="inference", help="of the file of results")
    bench = Bench(parser.parse_args())
    asyncio.run(bench.run())
    report(bench)


if __name__ == "__main__":
    main()
