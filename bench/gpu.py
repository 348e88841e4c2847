"""The benchmarks' tables on a machine with a GPU: our runtime against llama.cpp's server.

    python bench/gpu.py --model M.gguf --server /path/to/llama-server [--onnx mlp.onnx]

For a bare machine: needs PYTHONPATH=agent:bench:proto:policies (absolute), a CUDA build of
llama-cpp-python (packaging/build_llama_wheel.py --cuda) and from PyPI onnxruntime-gpu, numpy,
msgspec, jinja2, llguidance, httpx, cel-expr-python and pyyaml; no coordinator, no gRPC, no network.
Our side is the scheduler in its worker process, without HTTP and governance; the server is asked
over HTTP on loopback. Both have all layers on the GPU, the same slots and the same context.

Every part has a time of its own; one that fails says why, and the next goes on. What was
measured by then is written. `--make-onnx PATH` writes a small network for the ONNX part (needs
the package onnx) and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from inference_load import (
    Ask,
    Plan,
    Turns,
    await_http,
    complete,
    measure,
    over_http,
    over_runtime,
    ratio_rows,
    rows,
)
from inference_mixed import engine_share, mixed_load
from onnx_load import BATCHED, ONE_BY_ONE, runtime_requests, take_turn

from exclave_agent.ports import ModelSet, ModelSpec
from exclave_agent.runtimes.births import Birth, program
from exclave_agent.runtimes.restart import Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng

OURS, SERVER, MODEL = "exclave runtime", "llama-server", "m"
CLIENTS = (1, 4, 8, 16, 32, 64)
BEST = (
    ("-fa", "on"),
    ("--cache-reuse", "256"),
    ("--slot-prompt-similarity", "0.1"),
    ("-b", "2048"),
    ("-ub", "512"),
    ("--cont-batching", None),
    ("--no-webui", None),
)
"""What makes it fast at this load; given where its --help names it. The rest: its defaults."""


class Report:
    """Rows and errors, written after every part."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path: Path = options.out
        self.most: float = options.seconds
        self.began = time.perf_counter()
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {"python": platform.python_version(), "gpu": _gpu()}
        self.errors: dict[str, str] = {}

    def add(self, found: list[dict[str, Any]]) -> None:
        """Print and keep."""
        self.rows += found
        for row in found:
            words = (
                f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in row.items()
            )
            print("  " + ", ".join(words), flush=True)

    def write(self) -> None:
        """All so far."""
        document = {"name": "gpu", "facts": self.facts, "rows": self.rows, "errors": self.errors}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(document, indent=2) + "\n")

    async def part(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> bool:
        """Run one part within its time; whether it came to its end."""
        spent = time.perf_counter() - self.began
        print(f"[{spent:5.1f} s] {name}", flush=True)
        try:
            async with asyncio.timeout(max(0.0, min(seconds, self.most - spent))):
                await work()
            return True
        except Exception as error:  # noqa: BLE001 - the other parts must go on, whatever it was
            self.errors[name] = f"{type(error).__name__}: {error}"[:1000]
            print(f"FAILED {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            return False
        finally:
            self.write()


def _gpu() -> str:
    words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none ({type(error).__name__})"


@contextlib.contextmanager
def llama_server(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """The server's URL and what it was started with. It is not yet up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(options.server), "-m", str(options.model), "-ngl", "99", "--port", str(port)]
    words += ["-c", str(options.context * options.slots), "-np", str(options.slots)]
    said = subprocess.run([words[0], "--help"], capture_output=True, text=True, timeout=30).stdout
    for flag, value in BEST:
        if any(word.strip(",") == flag for word in said.split()):
            words += [flag] if value is None else [flag, value]
    words += options.server_args.split()
    log = options.out.with_suffix(".server.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as output,
        subprocess.Popen(words, stdout=output, stderr=output) as process,
    ):
        try:
            yield f"http://127.0.0.1:{port}", words[1:]
        finally:
            process.kill()


def worker_birth() -> Birth:
    """Workers as the agent starts them, which find our code where this process found it: on a bare
    machine it is not installed, and isolated interpreters read no PYTHONPATH."""
    code = (
        f"import sys; sys.path[:0] = {sys.path[1:]!r}\n"
        "from exclave_agent.runtimes.worker import main; sys.exit(main(sys.argv[1:]))"
    )
    return program(sys.executable, "-I", "-c", code)


class Bench:
    """The parts."""

    def __init__(self, options: argparse.Namespace, report: Report, stack: Any) -> None:
        self.options = options
        self.report = report
        self.stack: contextlib.AsyncExitStack = stack
        self.asks: dict[str, Ask] = {}
        self.supervisor: Supervisor
        self.models: ModelSet | None = None

    async def ours(self) -> None:
        """Load our side; what it says of itself."""
        options = self.options
        parameters: dict[str, int | str | bool] = {
            "n_ctx": options.context,
            "n_parallel": options.slots,
            "flash_attn": options.flash_attn,
            "expect_gpu": True,
        }
        spec = ModelSpec(MODEL, "llama", options.model, "aa" * 32, parameters)
        self.models = await self.supervisor.load([spec])
        self.stack.push_async_callback(self.models.close)
        self.asks[OURS] = over_runtime(self.models, MODEL)
        self._tell(MODEL)

    def _tell(self, name: str) -> None:
        placed = [one for one in self.supervisor.plan().models if one.name == name]
        self.report.add(
            [
                {
                    "model": one.name,
                    "device": one.device,
                    "vram MiB": one.vram_bytes >> 20,
                    "ram MiB": one.ram_bytes >> 20,
                    "load s": one.reload_seconds,
                    "degraded": one.degraded or "no",
                }
                for one in placed
            ]
        )

    async def server(self) -> None:
        """Bring up the peer."""
        options = self.options
        if options.server_url:
            url = options.server_url
        else:
            url, words = self.stack.enter_context(llama_server(options))
            self.report.facts["server arguments"] = " ".join(words)
            # In a thread: the supervisor's tasks go on.
            await asyncio.to_thread(await_http, f"{url}/health", 45)
        limits = httpx.Limits(max_keepalive_connections=0, max_connections=256)
        client = await self.stack.enter_async_context(
            httpx.AsyncClient(timeout=httpx.Timeout(60, connect=10), limits=limits, trust_env=False)
        )
        self.asks[SERVER] = over_http(client, url, {"": "none"}, options.model.stem)

    async def throughput(self) -> None:
        """Both workloads at every load, until the time is up."""
        options = self.options
        plan = Plan(
            options.clients,
            options.rounds,
            lambda load: max(options.least_requests, load),
            max_tokens=options.tokens,
        )
        ends = time.perf_counter() + options.throughput_seconds
        turns: Turns = {}
        try:
            await measure(self.asks, plan, over=lambda: time.perf_counter() > ends, into=turns)
        finally:
            # Of a load that was cut off, the rounds that all served.
            turns = complete(turns)
            self.report.add(rows(turns))
            if SERVER in self.asks:
                self.report.add(ratio_rows(turns, OURS, SERVER))

    async def mixed(self, name: str) -> None:
        """Questions beside a load that fills every slot."""
        found = await mixed_load(
            self.asks[name],
            batch_clients=self.options.slots,
            questions=self.options.questions,
            offset=60_000,
            # Both halves, and a last answer, within the part's own time.
            most_seconds=self.options.mixed_seconds / 4,
        )
        self.report.add([found.row(name)])

    async def overhead(self) -> None:
        """The scheduler's own time."""
        for sequences in (8, self.options.slots):
            share = await engine_share(
                self.supervisor, MODEL, self.asks[OURS], sequences=sequences, seconds=4
            )
            self.report.add([share.row()])

    async def onnx(self) -> None:
        """Dynamic batching on whatever provider is found."""
        requests = await runtime_requests(
            self.supervisor, self.stack, self.options.onnx, expect_gpu=True
        )
        for name in requests:
            self._tell(name)
        rates: dict[str, float] = {}
        for name, request in requests.items():
            await take_turn(request, 0.5)
            turn = await take_turn(request, 2)
            rates[name] = turn.rate
            spent = sorted(turn.seconds)
            p99 = 1000 * spent[int(len(spent) * 0.99)]
            self.report.add([{"path": name, "requests/s": turn.rate, "p99 ms": p99}])
        self.report.add(
            [{"ratio": "batches / one by one", "value": rates[BATCHED] / rates[ONE_BY_ONE]}]
        )


async def run(options: argparse.Namespace) -> None:
    report = Report(options)
    print(f"gpu: {report.facts['gpu']}", flush=True)
    try:
        async with contextlib.AsyncExitStack() as stack:
            bench = Bench(options, report, stack)
            bench.supervisor = await stack.enter_async_context(
                Supervisor(
                    clock=SystemClock(),
                    rng=SystemRng(),
                    timings=Timings(ping=0.25),
                    birth=worker_birth(),
                )
            )
            loaded = await report.part("our runtime loads", 40, bench.ours)
            if options.server or options.server_url:
                await report.part("the server starts", 50, bench.server)
            if bench.asks:
                most = options.throughput_seconds + 20
                await report.part("throughput", most, bench.throughput)
            for name in bench.asks if options.questions else ():
                most = options.mixed_seconds
                await report.part(f"mixed load: {name}", most, partial(bench.mixed, name))
            if loaded:
                await report.part("overhead", 20, bench.overhead)
            if options.onnx is not None:
                await report.part("onnx", 30, bench.onnx)
    finally:
        report.write()
    print(f"written to {options.out}; failed parts: {', '.join(report.errors) or 'none'}")


def make_onnx(path: Path) -> None:
    """A multi-layer perceptron: 256 -> 2048 -> 2048 -> 16, rows independent."""
    import numpy as np
    import onnx

    rng = np.random.default_rng(7)
    sizes = (256, 2048, 2048, 16)
    nodes, weights, last = [], [], "x"
    for at, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        matrix = (rng.standard_normal((wide, narrow)) / wide**0.5).astype("f4")
        weights.append(onnx.numpy_helper.from_array(matrix, f"w{at}"))
        end = "y" if at == len(sizes) - 2 else f"h{at}"
        nodes.append(onnx.helper.make_node("MatMul", [last, f"w{at}"], [end]))
        last = end
        if end != "y":
            nodes.append(onnx.helper.make_node("Relu", [end], [last := f"r{at}"]))
    floats, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "mlp",
        [value("x", floats, ["n", sizes[0]])],
        [value("y", floats, ["n", sizes[-1]])],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    print(f"{path}: {path.stat().st_size >> 20} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--server", type=Path, help="llama-server's binary")
    parser.add_argument("--server-args", default="", help="more of its arguments, in one word")
    parser.add_argument("--server-url", default="", help="a running server instead")
    parser.add_argument("--onnx", type=Path, help="an ONNX model of one float input [n, ...]")
    parser.add_argument("--make-onnx", type=Path, help="write such a model and end")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu.json"))
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--slots", type=int, default=max(CLIENTS))
    parser.add_argument("--context", type=int, default=1024, help="tokens of a slot")
    parser.add_argument("--flash-attn", default="on", choices=["auto", "on", "off"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--least-requests", type=int, default=4, help="of a turn")
    parser.add_argument("--questions", type=int, default=12, help="0: no mixed load")
    parser.add_argument("--seconds", type=float, default=145, help="of all parts together")
    parser.add_argument("--throughput-seconds", type=float, default=50)
    parser.add_argument("--mixed-seconds", type=float, default=15, help="of each server")
    options = parser.parse_args()
    if options.make_onnx is not None:
        make_onnx(options.make_onnx)
        return
    if options.model is None:
        parser.error("--model is missing")
    options.out = options.out.absolute()
    if options.onnx is not None:
        options.onnx = options.onnx.absolute()
    options.model = options.model.absolute()
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
