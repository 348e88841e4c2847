"""The load of the ONNX benchmarks: callers in closed loops, through the supervisor and a worker.

Needs the runtimes and numpy alone, so that bench/gpu.py can use it on a bare machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exclave_agent.ports import ModelSpec, Tensor
from exclave_agent.runtimes.supervisor import Supervisor

CLIENTS = 32
MAX_BATCH = CLIENTS // 2
MAX_WAIT_US = 1000

BATCHED, NO_WAIT = "runtime, batches", "runtime, batches, no wait"
ONE_BY_ONE = "runtime, one by one"
PARAMETERS: dict[str, dict[str, int | str | bool]] = {
    BATCHED: {"max_batch": MAX_BATCH, "max_wait_us": MAX_WAIT_US},
    NO_WAIT: {"max_batch": MAX_BATCH, "max_wait_us": 0},
    ONE_BY_ONE: {"max_batch": 1},
}

Request = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Turn:
    """Of one round."""

    rate: float
    """Requests a second."""
    seconds: list[float]
    """Of each request."""


async def take_turn(request: Request, seconds: float) -> Turn:
    """`CLIENTS` callers in closed loops."""
    spent: list[float] = []
    started = time.perf_counter()
    ends = started + seconds

    async def call() -> None:
        while (began := time.perf_counter()) < ends:
            await request()
            spent.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(call())
    return Turn(len(spent) / (time.perf_counter() - started), spent)


async def runtime_requests(
    supervisor: Supervisor, stack: contextlib.AsyncExitStack, path: Path, **more: int | str | bool
) -> dict[str, Request]:
    """One row a request to the model of float inputs at `path`, loaded once for each choice of
    parameters; `more` are parameters of all."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    requests: dict[str, Request] = {}
    for name, parameters in PARAMETERS.items():
        given = {"threads": 1, **more, **parameters}
        models = await supervisor.load([ModelSpec(name, "onnx", path, digest, given)])
        stack.push_async_callback(models.close)
        tensors = [
            Tensor(one.name, one.datatype, (1, *one.shape[1:]), _row(one.shape[1:]))
            for one in models.models()[name].inputs
        ]

        async def request(
            models: Any = models, name: str = name, tensors: list[Tensor] = tensors
        ) -> object:
            return await models.infer(name, tensors)

        requests[name] = request
    return requests


def _row(shape: tuple[int, ...]) -> bytes:
    values = np.random.default_rng(7).integers(-1, 2, math.prod(shape))
    return values.astype("<f4").tobytes()
