"""GPUs: is one there, may the workers use it, and do the models fit into its memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exclave_agent.doctor import engines
from exclave_agent.doctor.machine import Machine, Stat, User
from exclave_agent.doctor.report import Check, ok, size, skip, warn
from exclave_agent.doctor.service import grants_gpu
from exclave_agent.doctor.site import WORKER_USER, Site

NODES: Final = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/kfd")
RENDER: Final = "/dev/dri/renderD*"
"""Displays without any use for models have one too: alone, it means nothing."""
DROP_IN: Final = "exclave-agent install adds 20-gpu.conf to exclave-worker@.service and the groups"
_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=memory.total,memory.free,driver_version",
    "--format=csv,noheader,nounits",
)
_MIB: Final = 1 << 20
_DRM: Final = "/sys/class/drm/card*/device/mem_info_vram_"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device's memory, bytes."""

    kind: str
    total: int
    free: int
    driver: str


def read_gpus(machine: Machine) -> list[Gpu]:
    """Those that NVIDIA's tool or the kernel's amdgpu driver tell of."""
    found = []
    for line in machine.run(_QUERY).out.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[0].isdigit() and cells[1].isdigit():
            found.append(Gpu("NVIDIA", int(cells[0]) * _MIB, int(cells[1]) * _MIB, cells[2]))
    for path in machine.glob(f"{_DRM}total"):
        total = _number(machine, path)
        used = _number(machine, path.with_name("mem_info_vram_used"))
        if total:
            found.append(Gpu("AMD", total, max(0, total - used), "amdgpu"))
    return found


def _number(machine: Machine, path: Path) -> int:
    text = (machine.read(path) or b"").strip()
    return int(text) if text.isdigit() else 0


def gpu(site: Site) -> Iterator[Check]:
    """From device node to memory; the first that lacks is the one to mend."""
    machine = site.machine
    expected = engines.gpu_package(site)
    nodes = [path for pattern in NODES for path in machine.glob(pattern)]
    if not nodes:
        if expected:
            yield warn(
                "gpu",
                f"{expected} is installed, and no device node is there (/dev/nvidia*, /dev/kfd)",
                "install the driver and load it (nvidia-smi, nvidia-modprobe -u -c=0), or install "
                "exclave-runtime-cpu instead",
            )
        else:
            yield from _degraded(site, "none")
        return
    gpus = read_gpus(machine)
    told = ", ".join(f"{one.kind} {size(one.total)} ({one.driver})" for one in gpus)
    told = told or f"{len(nodes)} device nodes, and no tool that tells of them"
    if not expected:
        yield from _degraded(site, f"{told}; the installed runtime does not use it")
        return
    closed = _closed(site, nodes)
    if closed is not None:
        yield closed
        return
    yield from _degraded(site, told)
    yield from _memory(site, gpus)


def _degraded(site: Site, told: str) -> Iterator[Check]:
    """What the running agent says of models that were to have a GPU and run without."""
    models = site.status.get("models", []) if site.status else []
    slow = [f"{one['name']}: {one['degraded']}" for one in models if one.get("degraded")]
    if slow:
        yield warn(
            "gpu",
            f"{told}; degraded: {'; '.join(slow)}",
            "install exclave-runtime-cuda where a GPU is wanted, and restart the agent",
        )
    else:
        yield ok("gpu", told)


def _closed(site: Site, nodes: list[Path]) -> Check | None:
    """Why a worker could not open the devices."""
    if not site.no_service and site.worker.get("LoadState") == "loaded":
        if not grants_gpu(site.worker):
            return warn(
                "gpu",
                "the workers' unit keeps the devices from them: models run on the CPU",
                f"{DROP_IN}: run it again",
            )
        user = site.machine.user(WORKER_USER)
        extra = site.worker.get("SupplementaryGroups", "").split()
    else:
        user, extra = site.machine.user(site.machine.user_name(site.machine.uid)), []
    if user is None:
        return skip("gpu", f"there is no user {WORKER_USER}")
    groups = {number for name in extra if (number := site.machine.group(name)) is not None}
    rendering = [path for path in site.machine.glob(RENDER) if Path("/dev/kfd") in nodes]
    stats = [(path, site.machine.stat(path)) for path in (*nodes, *rendering)]
    shut = [str(path) for path, one in stats if one and not _opens(one, user, groups)]
    if shut:
        return warn(
            "gpu",
            f"{user.name} may not open {', '.join(shut)}",
            f"put {user.name} into the groups of those nodes: usermod -a -G video,render "
            f"{user.name}; then restart the agent",
        )
    return None


def _opens(node: Stat, user: User, more: set[int]) -> bool:
    """Reading and writing, by the file's mode alone."""
    if node.uid == user.uid:
        shift = 6
    elif node.gid in user.groups or node.gid in more:
        shift = 3
    else:
        shift = 0
    return (node.permissions >> shift) & 0o6 == 0o6


def _memory(site: Site, gpus: list[Gpu]) -> Iterator[Check]:
    from exclave_agent.doctor.space import model_need

    kept = site.kept
    manifest = kept.manifest if kept is not None else None
    if not gpus or manifest is None:
        return
    wanted = [
        model
        for model in manifest.models
        if model.sha256 not in site.loaded
        and model.runtime != "remote"
        and model.parameters.get("n_gpu_layers", -1) != 0
    ]
    need, free = sum(model_need(site, model) for model in wanted), sum(one.free for one in gpus)
    if need > free:
        yield warn(
            "gpu memory",
            f"{size(free)} free, and the models take about {size(need)}",
            "stop what else uses the GPU, or sign the release with fewer n_gpu_layers",
        )
    else:
        yield ok("gpu memory", f"{size(free)} free")
