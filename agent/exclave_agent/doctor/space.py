"""Disk and memory, measured against the release that runs and one more of its size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave_agent.doctor import gguf
from exclave_agent.doctor.kept import artifact, read_manifest
from exclave_agent.doctor.report import Check, fail, ok, size, skip, warn
from exclave_agent.doctor.site import Site
from exclave_agent.releases.fetch import RESERVE
from exclave_agent.runtimes.parameters import DEFAULT_CONTEXT, LlamaParameters, read_parameters
from exclave_agent.runtimes.placement import engine_parameters
from exclave_protocol.release import ArtifactRef, ModelEntry, ReleaseManifest

FIRST_RELEASE: Final = 1 << 30
"""Bytes to have free before any release is known."""
FEW_INODES: Final = 1_000
NO_INODES: Final = 64
WORKER_BYTES: Final = 96 << 20
"""A worker without its model: the interpreter, the engine, its buffers."""


def disk(site: Site) -> Iterator[Check]:
    """Room for what is missing of the active release, for its successor, and for the record."""
    room = site.machine.space(site.home)
    if room is None:
        yield skip("disk", "the home is not there")
        return
    yield from _inodes(room.inodes, room.inodes_free)
    manifest = _manifest(site)
    if manifest is None:
        need, of = FIRST_RELEASE, "a first release"
        missing = 0
    else:
        files = manifest.targets()
        missing = sum(file.length for file in files if not _here(site, file))
        successor = sum(file.length for file in files)
        need, of = missing + successor + RESERVE, f"a successor of release {manifest.version}"
    told = f"{size(room.free)} free, {size(need)} wanted for {of}"
    if room.free < missing + RESERVE:
        yield fail("disk", told, f"make room where {site.home} is: without it no decision is kept")
    elif room.free < need:
        yield warn(
            "disk", told, f"make room where {site.home} is, or the next release may be refused"
        )
    else:
        yield ok("disk", told)


def _inodes(all_: int, free: int) -> Iterator[Check]:
    if all_ and free < FEW_INODES:
        tell = fail if free < NO_INODES else warn
        yield tell(
            "inodes",
            f"{free:,} of {all_:,} free",
            "remove small files on this file system (df -i), or make it anew with more inodes",
        )


def memory(site: Site) -> Iterator[Check]:
    """RAM for all models together, and each worker's limit for the largest of them."""
    manifest = _manifest(site)
    if manifest is None or not manifest.models:
        yield skip("memory", "no release names models yet")
        return
    needs = {model.name: model_need(site, model) for model in manifest.models}
    yield from _limit(site, needs)
    available, total = _meminfo(site)
    if not available:
        yield skip("memory", "/proc/meminfo does not say what is available")
        return
    # What is loaded is no longer available, so it must not be asked for twice.
    want = sum(needs[model.name] for model in manifest.models if model.sha256 not in site.loaded)
    whole, most = sum(needs.values()), max(needs.values())
    told = f"{size(available)} of {size(total)} available; the models take about {size(whole)}"
    if not want:
        yield ok("memory", f"{told}, and are loaded")
    elif most > total:
        yield fail("memory", told, "more memory, smaller models, or less n_ctx and n_parallel")
    elif whole > total:
        yield warn(
            "memory",
            f"{told}: they are loaded by turns, when they are asked for",
            "more memory, or fewer models in the release; exclave-agent models shows the turns",
        )
    elif want > available:
        yield warn("memory", told, "stop what else takes memory on this machine, or add some")
    else:
        yield ok("memory", told)
    yield from _budget(site, most, total)


def _budget(site: Site, most: int, total: int) -> Iterator[Check]:
    """A stated budget that the largest model exceeds refuses the release; one above the machine's
    memory keeps nobody from swapping."""
    budget = site.settings.ram_budget_mib << 20
    if budget and most > budget:
        yield fail(
            "memory budget",
            f"ram_budget_mib is {size(budget)}, and the largest model takes about {size(most)}",
            "raise ram_budget_mib in the settings and restart the agent, or sign a smaller model",
        )
    elif budget > total:
        yield warn(
            "memory budget",
            f"ram_budget_mib is {size(budget)}, more than the machine's {size(total)}",
            "lower ram_budget_mib in the settings, or remove it",
        )


def _limit(site: Site, needs: dict[str, int]) -> Iterator[Check]:
    """A worker above its unit's MemoryMax is killed by the kernel, again and again."""
    if site.no_service or site.worker.get("LoadState") != "loaded":
        return
    limit = site.worker.get("MemoryMax", "")
    large = [name for name, need in needs.items() if limit.isdigit() and need > int(limit)]
    if large:
        most = max(needs[name] for name in large)
        yield fail(
            "memory limit",
            f"MemoryMax={size(int(limit))} of a worker is less than {', '.join(large)} "
            f"may take (about {size(most)})",
            "systemctl edit exclave-worker@.service, and raise MemoryMax",
        )


def model_need(site: Site, model: ModelEntry) -> int:
    """Bytes that one model may take once it is loaded and every slot is in use."""
    if model.runtime == "remote":
        return 0
    if model.runtime == "lora":
        return model.length  # in its base's worker
    need = model.length + WORKER_BYTES
    if model.runtime == "llama":
        need += _context(site, model)
    return need


def _context(site: Site, model: ModelEntry) -> int:
    try:
        parameters = read_parameters(LlamaParameters, engine_parameters(model.parameters))
    except ValueError:
        parameters = LlamaParameters()  # activation tells what is wrong with them
    head = site.machine.read(artifact(site.home, model.sha256), gguf.HEADER_BYTES)
    shape = gguf.read_shape(head or b"")
    if shape is None:
        return model.length // 4
    tokens = parameters.n_ctx or min(shape.trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return shape.token_bytes * tokens * parameters.n_parallel


def _manifest(site: Site) -> ReleaseManifest | None:
    """Of the active release; the one that the running agent names, where it differs."""
    kept = site.kept
    release = site.status["release"] if site.status else None
    if release is not None:
        digest = str(release["digest"])
        if kept is None or kept.state.current is None or kept.state.current.digest != digest:
            return read_manifest(site.home, site.machine, digest)
    return None if kept is None else kept.manifest


def _here(site: Site, file: ArtifactRef) -> bool:
    return site.machine.stat(artifact(site.home, file.sha256)) is not None


def _meminfo(site: Site) -> tuple[int, int]:
    """(available, total), bytes; 0 where /proc does not say."""
    text = (site.machine.read(Path("/proc/meminfo")) or b"").decode("ascii", "replace")
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def value(name: str) -> int:
        words = rows.get(name, "").split()
        return int(words[0]) * 1024 if words and words[0].isdigit() else 0

    return value("MemAvailable"), value("MemTotal")
