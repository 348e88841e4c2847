"""What every kept model works with, and in which words it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exclave_agent.errors import AgentError, DeadlineExceeded, NoMemory, Overloaded
from exclave_agent.ports import Clock, Rng
from exclave_agent.runtimes.births import Birth
from exclave_agent.runtimes.memory import Need
from exclave_agent.runtimes.memory_keeper import Keeper
from exclave_agent.runtimes.quarantine import Culprit, Quarantine
from exclave_agent.runtimes.restart import Crash, Timings

HEADROOM = 1 << 30
"""Bytes of RLIMIT_DATA beyond what a load took: batches, caches, allocators' arenas."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every kept model works with."""

    clock: Clock
    rng: Rng
    timings: Timings
    crashed: Callable[[Crash], None]
    birth: Birth
    keeper: Keeper
    quarantine: Quarantine
    caught: Callable[[Culprit], None]
    """Told of a request that went into quarantine."""


def too_large(need: Need, budget: Need) -> str:
    """Why a model that does not fit the budget by itself is refused."""
    if need.ram > budget.ram:
        return (
            f"takes about {mib(need.ram)} of memory, more than the budget of "
            f"{mib(budget.ram)} (ram_budget_mib)"
        )
    return (
        f"takes about {mib(need.vram)} of GPU memory, more than the budget of "
        f"{mib(budget.vram)} (vram_budget_mib)"
    )


def never_room(need: Need, seconds: float) -> str:
    """Why a first load did not begin."""
    return (
        f"takes about {mib(need.ram)} of memory, which was not to be had beside the models in use "
        f"within {seconds:g} s"
    )


def no_room(seconds: float) -> NoMemory:
    """What requests for an evicted model are told after so long."""
    return NoMemory(
        "the model is not loaded, and those in use leave no room for it",
        retry_after=max(1.0, seconds),
    )


def too_late(timeout: float | None) -> AgentError:
    """What a request is told that no worker took in time; `timeout` was its own."""
    if timeout is None:
        return Overloaded("requests that must run alone are before this one", retry_after=5.0)
    return DeadlineExceeded("the request's own time ran out before the model's worker took it")


def mib(size: int) -> str:
    """Bytes as people read them, rounded up."""
    return f"{-(-size // (1 << 20))} MiB"
