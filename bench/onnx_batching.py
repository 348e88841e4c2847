"""What dynamic batching brings to the shipped fraud classifier with 32 callers.

(Not named after the package `onnx`, which scripts beside it import.) Each caller asks for one
row in a closed loop. All rows of the table that say "runtime" go through the same supervisor and
worker process; they differ in the signed `max_batch` and `max_wait_us` alone, and their turns
alternate. A batch is half of the callers: while one half is computed the other half's answers are
on their way. The peer is onnxruntime in this process, in a pool of threads: no isolation, no
process between, one run a request. The governed row is the whole HTTP path of an enrolled agent,
every answer recorded.

A request may wait `max_wait_us` for others, so its p99 is bound by that and by what it takes
where nothing waits: that of the same batches with a wait of zero.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import uvloop
from common import Bar, write_results
from governance_load import Caller
from inference_load import quantile
from onnx_load import (
    BATCHED,
    CLIENTS,
    MAX_BATCH,
    MAX_WAIT_US,
    NO_WAIT,
    ONE_BY_ONE,
    PARAMETERS,
    Request,
    Turn,
    runtime_requests,
    take_turn,
)

from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.restart import Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.mainjob import FRAUD_MODEL, one_agent_world

ROUNDS = 7
SECONDS = 1.5
"""Of one turn."""
BAR_BATCHING = 3.0
BAR_P99 = 1.0

PEER, HTTP = "onnxruntime in threads", "governed HTTP, batches"


def features() -> bytes:
    """One page's row."""
    return np.array([[1, 0, 1, 0, -1, 1, 0, 1, 0]], dtype="<f4").tobytes()


def thread_request(stack: contextlib.AsyncExitStack) -> Request:
    """The peer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(FRAUD_MODEL), options, providers=["CPUExecutionProvider"]
    )
    pool = stack.enter_context(ThreadPoolExecutor(physical_cores()))
    data = features()

    def answer() -> object:
        row = np.frombuffer(data, dtype="<f4").reshape(1, 9)
        return [array.tobytes() for array in session.run(None, {"features": row})]

    async def request() -> object:
        return await asyncio.get_running_loop().run_in_executor(pool, answer)

    return request


@contextlib.contextmanager
def governed_agent(folder: Path) -> Iterator[tuple[str, str]]:
    """An enrolled agent with the classifier in a signed release: (its URL, a key)."""
    words = ",".join(f"{name}={value}" for name, value in PARAMETERS[BATCHED].items())
    model = f"fraud={FRAUD_MODEL},runtime=onnx,{words}"
    with one_agent_world(folder, "fraud", [model]) as (url, (key,)):
        yield url, key


async def http_turn(url: str, key: str, requests: int) -> Turn:
    """`CLIENTS` kept connections, each with its next request as soon as it has its answer."""
    address = urlsplit(url)
    values = [float(value) for value in np.frombuffer(features(), dtype="<f4")]
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 9], "data": values}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/fraud/infer HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    spent: list[float] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    callers = []
    for _ in range(CLIENTS):
        _, caller = await loop.create_connection(
            lambda: Caller(head.encode() + body, max(1, requests // CLIENTS), spent),
            address.hostname,
            address.port,
        )
        callers.append(caller)
    await asyncio.gather(*(caller.done for caller in callers))
    # The callers' warm-up is in the time and not in what they counted.
    counted = len(spent) / (time.perf_counter() - started)
    return Turn(counted, spent)


def rows(turns: dict[str, list[Turn]]) -> list[dict[str, Any]]:
    """One for each."""
    table = []
    for name, each in turns.items():
        spent = [one for turn in each for one in turn.seconds]
        table.append(
            {
                "path": name,
                "clients": CLIENTS,
                "requests/s": statistics.median(turn.rate for turn in each),
                "best": max(turn.rate for turn in each),
                "worst": min(turn.rate for turn in each),
                "p50 ms": 1000 * quantile(spent, 0.5),
                "p95 ms": 1000 * quantile(spent, 0.95),
                "p99 ms": 1000 * quantile(spent, 0.99),
                "requests": len(spent),
            }
        )
    return table


async def run(options: argparse.Namespace) -> None:
    turns: dict[str, list[Turn]] = {}
    async with contextlib.AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(
            Supervisor(clock=SystemClock(), rng=SystemRng(), timings=Timings(ping=0.5))
        )
        requests = await runtime_requests(supervisor, stack, FRAUD_MODEL)
        requests[PEER] = thread_request(stack)
        for request in requests.values():
            await take_turn(request, 0.3)
        for number in range(options.rounds):
            names = list(requests)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                turns.setdefault(name, []).append(await take_turn(requests[name], options.seconds))
                print(f"round {number + 1}: {name}: {turns[name][-1].rate:,.0f}/s", flush=True)
        await asyncio.sleep(1.2)  # the counters come with the next ping
        filled = {
            f"{one.stats.batch_sequences / one.stats.steps:.1f}"
            for one in supervisor.plan().models
            if one.stats.steps
        }
    if not options.runtime_only:
        folder = tempfile.TemporaryDirectory(prefix="exclave-bench-")
        with folder as path, governed_agent(Path(path)) as (url, key):
            await http_turn(url, key, 2 * CLIENTS)
            for _ in range(options.rounds):
                turns.setdefault(HTTP, []).append(await http_turn(url, key, 40 * CLIENTS))
    report(turns, filled, options.name)


def report(turns: dict[str, list[Turn]], filled: set[str], name: str) -> None:
    """Write and print what was measured."""
    pairs = list(zip(turns[BATCHED], turns[ONE_BY_ONE], strict=True))
    gain = statistics.median(a.rate / b.rate for a, b in pairs)
    waits = zip(turns[BATCHED], turns[NO_WAIT], strict=True)
    bound = statistics.median(
        quantile(a.seconds, 0.99) / (MAX_WAIT_US / 1e6 + quantile(b.seconds, 0.99))
        for a, b in waits
    )
    bars = [
        Bar(f"batches / one by one, {CLIENTS} clients", gain, BAR_BATCHING, "higher"),
        Bar("p99 / (max wait + p99 where nothing waits)", bound, BAR_P99, "lower"),
    ]
    versions = {
        "onnxruntime": onnxruntime.__version__,
        "max_batch": str(MAX_BATCH),
        "max_wait_us": str(MAX_WAIT_US),
        "requests a run": ", ".join(sorted(filled)),
    }
    write_results(name, rows(turns), bars, versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one turn")
    parser.add_argument("--runtime-only", action="store_true", help="leave the agent out")
    parser.add_argument("--name", default="onnx", help="of the file of results")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
