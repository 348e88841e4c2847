"""Generated tokens per second through the governed HTTP path, against llama.cpp's own servers.

The agent runs as it does for a user: enrolled, with a signed release, every answer recorded.
Beside it, with the same model file, threads, slots and context: llama.cpp's server (PyPI
xllamacpp) and `python -m llama_cpp.server`. The callers send unrelated prompts, greedy, in a
closed loop, and read streams. All servers stay up; their turns alternate within each round, so
that a slow minute of the machine falls on all, and a bar is the median of the rounds' ratios.

The row "exclave runtime" is our scheduler without HTTP and governance: what is left between it
and the row above is what those two cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from common import Bar, write_results

from exclave_agent.ports import Delta, Finished, Generate, Message, ModelSpec, Sampling
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.models import LoadedModels
from exclave_agent.runtimes.process import worker_environment
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.mainjob import PACKS
from exclave_testing.models import sha256_of, smollm2_path
from exclave_testing.processes import World, free_port

HERE = Path(__file__).parent
CLIENTS = (1, 4, 8)
REQUESTS = {1: 4, 4: 12, 8: 24}
"""Clients -> requests of one turn."""
ROUNDS = 5
MAX_TOKENS = 48
CONTEXT = 1024
PARALLEL = 8
BAR_XLLAMACPP = 1.0
BAR_LLAMA_CPP_SERVER = 1.3

TEXTS = (
    "Summarise this claim in one sentence and propose a remediation: the blender arrived with a "
    "cracked jar, the packaging was intact, it was bought twelve days ago for 89 dollars.",
    "Rewrite for a passenger notice: due to a defective switch north of the river the trains of "
    "line four end at the museum until about half past six this evening.",
    "What should a night guard check first when the cold store alarm rings, the door is shut and "
    "the thermometer inside reads two degrees above its limit?",
    "Explain to a new colleague why invoices above five thousand are approved by two people, and "
    "what happens when one of them is on leave at the end of a quarter.",
    "List the risks in this plan: one technician drives to three wind parks in a day, replaces a "
    "sensor at each, and reports by telephone because the portal is down.",
    "Turn these notes into a short letter: tenant wrote twice, heating cold since Monday, boiler "
    "inspected, valve stuck, part ordered, arrives Thursday, apologies.",
    "Compare renting and buying a forklift for a warehouse that needs it nine days in a month and "
    "has no place to charge it indoors before the summer.",
    "Describe for the shift log what happened: pump two lost pressure at 03:10, pump three took "
    "over by itself, no water was lost, the seal of pump two is worn.",
)


@dataclass
class Turn:
    """One server's figures for one load in one round."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    """Seconds to the first token of each request."""

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


Ask = Callable[[str], AsyncIterator[int]]
"""A prompt -> the tokens generated, as counts: one when they arrive, corrected at the end."""


def prompt(number: int) -> str:
    """Prompts that share nothing at their beginning, so that no cache of prefixes helps."""
    return f"Case {number * 7919 % 100_003}: {TEXTS[number % len(TEXTS)]}"


async def take_turn(ask: Ask, clients: int, requests: int, offset: int) -> Turn:
    """`clients` callers share `requests` prompts; each sends its next when it has its answer."""
    turn = Turn()
    waiting = iter(range(offset, offset + requests))

    async def call() -> None:
        for number in waiting:
            started = time.perf_counter()
            first = True
            async for tokens in ask(prompt(number)):
                if first:
                    turn.first.append(time.perf_counter() - started)
                    first = False
                turn.tokens += tokens

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(call())
    turn.seconds = time.perf_counter() - started
    return turn


def over_http(client: httpx.AsyncClient, base_url: str, api_key: str, model: str) -> Ask:
    """Ask an OpenAI-compatible server, streaming."""

    async def ask(text: str) -> AsyncIterator[int]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"authorization": f"Bearer {api_key}"}
        url = f"{base_url}/v1/chat/completions"
        counted, usage = 0, None
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                raise SystemExit(
                    f"{base_url} answers {answer.status_code}: {await answer.aread()!r}"
                )
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    counted += 1
                    yield 1
        if usage is not None:
            # A chunk may hold several tokens: what the server counted is exact.
            yield usage["completion_tokens"] - counted

    return ask


def over_runtime(models: LoadedModels) -> Ask:
    """Ask the scheduler itself."""

    async def ask(text: str) -> AsyncIterator[int]:
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0)
        counted = 0
        async for event in models.generate(Generate("smollm2", sampling, (Message("user", text),))):
            if isinstance(event, Delta):
                counted += 1
                yield 1
            elif isinstance(event, Finished):
                yield event.completion_tokens - counted

    return ask


@contextlib.contextmanager
def governed_agent(folder: Path, model: Path, threads: int) -> Iterator[tuple[str, str]]:
    """A real agent with a signed release; its base URL and an analyst's key."""
    world = World(folder)
    try:
        world.up()
        world.tenant("acme", ("alice", "bob", "carol"), 2)
        agent = world.add_agent("acme", "bench")
        agent.start()
        key = agent.create_key("analyst")
        world.build(
            "acme",
            [PACKS / "starter"],
            [
                f"smollm2={model},runtime=llama,n_ctx={CONTEXT},n_parallel={PARALLEL},"
                f"threads={threads}"
            ],
        )
        world.sign("acme", "alice", "bob")
        world.publish("acme")
        world.rollout("acme")
        yield agent.url, key
    finally:
        world.close()


@contextlib.contextmanager
def peer(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A peer's process; it gets the environment that our workers get."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=worker_environment(os.environ),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def xllamacpp(python: Path, model: Path, threads: int) -> Iterator[str]:
    """llama.cpp's own server; its base URL."""
    command = [str(python), str(HERE / "inference_peer.py"), str(model)]
    with peer([*command, str(threads), str(PARALLEL), str(CONTEXT)]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("xllamacpp did not start")
        yield json.loads(line)["url"]


@contextlib.contextmanager
def llama_cpp_server(python: Path, model: Path, threads: int) -> Iterator[str]:
    """`python -m llama_cpp.server`; its base URL. It answers one request at a time."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = {
        "model": str(model),
        "n_ctx": str(CONTEXT),
        "n_threads": str(threads),
        "n_threads_batch": str(threads),
        "host": "127.0.0.1",
        "port": str(port),
        # By default a new request breaks the answer that another caller is reading.
        "interrupt_requests": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with peer([str(python), "-m", "llama_cpp.server", *words]) as process:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/v1/models").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("llama_cpp.server did not start")
            time.sleep(0.1)
        yield url


async def measure(
    asks: dict[str, Ask], rounds: int, clients: tuple[int, ...]
) -> dict[tuple[str, int], list[Turn]]:
    """All turns of all servers; the first of each is a warm-up and not counted."""
    turns: dict[tuple[str, int], list[Turn]] = {}
    for ask in asks.values():
        await take_turn(ask, 2, 2, 90_000)
    for number in range(rounds):
        # Who begins changes, since a machine that warms up or throttles favours one place.
        names = list(asks)
        names = names[number % len(names) :] + names[: number % len(names)]
        for load in clients:
            for name in names:
                # Every turn of a server has prompts that it has not seen: theirs cache whole ones.
                offset = 1000 * number + 100 * load
                turn = await take_turn(asks[name], load, REQUESTS[load], offset)
                turns.setdefault((name, load), []).append(turn)
                print(f"round {number + 1}: {name}, {load} clients: {turn.rate:.1f} tokens/s")
    return turns


def ratio(turns: dict[tuple[str, int], list[Turn]], ours: str, theirs: str, load: int) -> float:
    """Median over the rounds of ours divided by theirs in the same round."""
    pairs = zip(turns[ours, load], turns[theirs, load], strict=True)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def rows(turns: dict[tuple[str, int], list[Turn]]) -> list[dict[str, Any]]:
    """One row for each server and load."""
    table = []
    for (name, load), of_load in sorted(turns.items(), key=lambda item: (item[0][1], item[0][0])):
        firsts = sorted(first for turn in of_load for first in turn.first)
        table.append(
            {
                "server": name,
                "clients": load,
                "tokens/s": statistics.median(turn.rate for turn in of_load),
                "best": max(turn.rate for turn in of_load),
                "worst": min(turn.rate for turn in of_load),
                "first token p50 ms": 1000 * firsts[len(firsts) // 2],
                "first token p95 ms": 1000 * firsts[int(len(firsts) * 0.95)],
                "tokens": sum(turn.tokens for turn in of_load),
            }
        )
    return table


GOVERNED, RUNTIME = "exclave", "exclave runtime"
XLLAMACPP, LLAMA_CPP = "xllamacpp", "llama_cpp.server"


async def run(options: argparse.Namespace) -> None:
    model, threads = smollm2_path(), options.threads or physical_cores()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exclave-bench-")))
        # A connection a request: the servers close idle ones after times of their own.
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(300, connect=10)
        client = await stack.enter_async_context(
            httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)
        )
        asks: dict[str, Ask] = {}
        if options.base_url:
            asks[GOVERNED] = over_http(client, options.base_url, options.api_key, "smollm2")
        elif not options.runtime_only:
            url, key = stack.enter_context(governed_agent(folder, model, threads))
            asks[GOVERNED] = over_http(client, url, key, "smollm2")
        supervisor = await stack.enter_async_context(
            Supervisor(clock=SystemClock(), rng=SystemRng())
        )
        parameters = {"n_ctx": CONTEXT, "n_parallel": PARALLEL, "threads": threads}
        models = await supervisor.load(
            [ModelSpec("smollm2", "llama", model, sha256_of(model), parameters)]
        )
        asks[RUNTIME] = over_runtime(models)
        if options.peers_venv is not None:
            python = options.peers_venv.absolute() / "bin" / "python"
            for name, start in ((XLLAMACPP, xllamacpp), (LLAMA_CPP, llama_cpp_server)):
                url = stack.enter_context(start(python, model, threads))
                asks[name] = over_http(client, url, "none", model.stem)
        turns = await measure(asks, options.rounds, tuple(options.clients))
        await models.close()
    report(turns, options, threads)


def report(
    turns: dict[tuple[str, int], list[Turn]], options: argparse.Namespace, threads: int
) -> None:
    """Write and print what was measured."""
    names = {name for name, _ in turns}
    ours = GOVERNED if GOVERNED in names else RUNTIME
    most = max(options.clients)
    bars = []
    table = rows(turns)
    for theirs, bar in ((XLLAMACPP, BAR_XLLAMACPP), (LLAMA_CPP, BAR_LLAMA_CPP_SERVER)):
        if theirs in names:
            value = ratio(turns, ours, theirs, most)
            bars.append(Bar(f"{ours} / {theirs}, {most} clients", value, bar, "higher"))
            table += [
                {
                    "ratio": f"{ours} / {theirs}",
                    "clients": load,
                    "of tokens/s": ratio(turns, ours, theirs, load),
                }
                for load in options.clients
            ]
    versions = {"llama-cpp-python": version("llama-cpp-python"), "threads": str(threads)}
    if options.peers_venv is not None:
        versions["xllamacpp"] = peer_version(options.peers_venv, "xllamacpp")
    write_results("inference", table, bars, versions)


def peer_version(venv: Path, package: str) -> str:
    """A package's version in the peers' environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers-venv", type=Path, help="environment with the peers installed")
    parser.add_argument("--base-url", help="a running agent's URL, instead of starting one")
    parser.add_argument("--api-key", default="", help="a key of that agent")
    parser.add_argument("--runtime-only", action="store_true", help="leave the agent out")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), choices=CLIENTS)
    parser.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
