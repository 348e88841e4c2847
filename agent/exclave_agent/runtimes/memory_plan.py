"""The memory plan for people and metrics: every model, where it is, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exclave_agent.ports import MemoryPlan, Placement, RuntimeStats
from exclave_agent.runtimes.memory import UNLIMITED
from exclave_agent.runtimes.memory_keeper import Keeper
from exclave_agent.runtimes.models import LoadedModels, Local, RemoteModel
from exclave_agent.runtimes.process import Worker


def memory_plan(keeper: Keeper, sets: Sequence[LoadedModels]) -> MemoryPlan:
    """Of all releases that hold models now, the newest first; shared workers once a name."""
    placed: dict[tuple[object, str], Placement] = {}
    for models in reversed(sets):
        for key, one in _placements(models):
            placed.setdefault((key, one.name), one)
    budget = keeper.budget
    return MemoryPlan(
        budget.ram, 0 if budget.vram >= UNLIMITED else budget.vram, tuple(placed.values())
    )


def _placements(models: LoadedModels) -> Iterator[tuple[object, Placement]]:
    for local in models.local.values():
        yield local.kept.key, _local(local)
    for remote in models.remote.values():
        yield remote.info.sha256, _remote(remote)


def _local(local: Local) -> Placement:
    kept, info = local.kept, local.info
    # An adapter lies in its base's worker, which takes the memory and does the work.
    own = not local.served.adapter
    loaded = kept.loaded
    return Placement(
        name=info.name,
        runtime=info.runtime,
        sha256=info.sha256,
        state=kept.state,
        device=loaded.provider if loaded is not None else info.provider,
        ram_bytes=kept.need.ram if own else 0,
        vram_bytes=kept.need.vram if own else 0,
        resident_bytes=kept.footprint.held.resident if own else 0,
        keep_warm=kept.warm_holders > 0,
        in_use=kept.in_use if own else 0,
        idle_seconds=kept.idle_seconds,
        reload_seconds=kept.load_seconds,
        degraded=loaded.degraded if loaded is not None else "",
        stats=_stats(kept.worker) if own and kept.worker is not None else RuntimeStats(),
    )


def _remote(remote: RemoteModel) -> Placement:
    info = remote.info
    return Placement(
        name=info.name,
        runtime=info.runtime,
        sha256=info.sha256,
        state="remote",
        device="remote",
        ram_bytes=0,
        vram_bytes=0,
        resident_bytes=0,
        keep_warm=False,
        in_use=0,
        idle_seconds=0.0,
        reload_seconds=0.0,
        degraded=info.degraded,
    )


def _stats(worker: Worker) -> RuntimeStats:
    """As the worker said when it was last asked."""
    pong, stats = worker.pong, worker.pong.stats
    return RuntimeStats(
        steps=pong.steps,
        active=pong.active,
        waiting=stats.waiting,
        batch_tokens=stats.batch_tokens,
        batch_sequences=stats.batch_sequences,
        busy_us=stats.busy_us,
        prefix_hits=stats.prefix_hits,
        prefix_tokens=stats.prefix_tokens,
        prefix_bytes=stats.prefix_bytes,
        preemptions=stats.preemptions,
        drafted=stats.drafted,
        accepted=stats.accepted,
    )
