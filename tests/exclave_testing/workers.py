"""What tests of the real workers share: small requests, waits with deadlines, a look at pids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from exclave_agent.ports import Generate, Message, ModelSet, ModelSpec, Runtimes, Sampling, Tensor
from exclave_testing.models import smollm2_path

X = Tensor("x", "FP32", (1, 4), bytes(16))
"""An input of `models.double_and_total_onnx`."""


async def until(condition: Callable[[], bool]) -> None:
    """Poll, for at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> list[int]:
    """Live child processes of this one."""
    mine: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        mine += map(int, (task / "children").read_text().split())
    return [pid for pid in mine if alive(pid)]


async def load_smollm2(runtimes: Runtimes, **parameters: int) -> ModelSet:
    spec = ModelSpec("m", "llama", smollm2_path(), "aa" * 32, {"n_ctx": 512, **parameters})
    return await runtimes.load([spec])


def story(max_tokens: int = 300) -> Generate:
    return Generate(
        "m", Sampling(max_tokens=max_tokens, temperature=0), (Message("user", "Tell a story."),)
    )
