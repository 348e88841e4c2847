"""What the machine, its cgroups and its GPUs have left for models, and what a process holds."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exclave_agent.runtimes.memory import UNLIMITED

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds, bytes."""

    resident: int
    """All of it, mapped files included."""
    private: int
    """What no other process and no file could give back: leaving frees it."""
    data: int
    """Private writable mappings, touched or not: what RLIMIT_DATA counts."""


NOTHING = Held(0, 0, 0)


class Machine(Protocol):
    """The memory of this machine."""

    def ram_left(self) -> int:
        """Bytes that new programs may take without any swapping."""
        ...

    def vram_left(self) -> int:
        """Bytes of all GPUs together; 0: there is none, or none that tells."""
        ...

    def held(self, pid: int) -> Held:
        """Of a process; `NOTHING` when it has gone."""
        ...


class LinuxMachine:
    """See `Machine`. Linux with or without cgroup v2."""

    def __init__(self, *, in_our_cgroup: bool = True, root: Path = Path("/")) -> None:
        """`in_our_cgroup`: workers are our children, so our cgroups' limits are theirs."""
        self._root = root
        self._in_our_cgroup = in_our_cgroup

    def ram_left(self) -> int:
        """See `Machine`: what is available, or what the tightest of our cgroups has left."""
        left = self._available()
        limits = self._cgroups_left() if self._in_our_cgroup else []
        return min(left, *limits) if limits else left

    def _available(self) -> int:
        """MemAvailable. Where the service manager hides it (ProcSubset=pid): what the memory
        nodes have free, and half of what they could drop, since the kernel's own margins are
        hidden as well; where those are not told either, what is free."""
        with suppress(OSError):
            fields = _fields((self._root / "proc/meminfo").read_text(encoding="ascii"))
            return fields.get("MemAvailable:", 0) * 1024
        free = dropped = 0
        for node in (self._root / "sys/devices/system/node").glob("node*/meminfo"):
            with suppress(OSError):
                # Each line begins with "Node 0 ".
                lines = node.read_text(encoding="ascii").splitlines()
                fields = _fields("\n".join(line.split(maxsplit=2)[-1] for line in lines if line))
                free += fields.get("MemFree:", 0)
                names = ("Active(file):", "Inactive(file):", "SReclaimable:")
                dropped += sum(fields.get(name, 0) for name in names)
        if free:
            return (free + dropped // 2) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * _PAGE

    def _cgroups_left(self) -> list[int]:
        top = self._root / "sys/fs/cgroup"
        left = []
        with suppress(OSError):
            for line in (self._root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
                if line.startswith("0::"):
                    folder = top / line[3:].strip().lstrip("/")
                    # In a container the own cgroup is the top, and says so by its files.
                    for each in (folder, *folder.parents):
                        if each.is_relative_to(top) and (one := _cgroup_left(each)) is not None:
                            left.append(one)
        return left

    def vram_left(self) -> int:
        """See `Machine`: NVIDIA's library where there is one, else what amdgpu tells."""
        nvidia = _nvidia_left()
        if nvidia:
            return nvidia
        left = 0
        for total in (self._root / "sys/class/drm").glob("card*/device/mem_info_vram_total"):
            with suppress(OSError, ValueError):
                used = total.with_name("mem_info_vram_used").read_text(encoding="ascii")
                left += max(0, int(total.read_text(encoding="ascii")) - int(used))
        return left

    def held(self, pid: int) -> Held:
        """See `Machine`. Readable of every process, undumpable ones too."""
        try:
            pages = [int(word) for word in (self._root / f"proc/{pid}/statm").read_text().split()]
            status = (self._root / f"proc/{pid}/status").read_text()
        except (OSError, ValueError):
            return NOTHING
        data = _fields(status).get("VmData:", 0) * 1024
        return Held(pages[1] * _PAGE, max(0, pages[1] - pages[2]) * _PAGE, data)


def _fields(text: str) -> dict[str, int]:
    """The numbers of a /proc file of names and numbers."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _cgroup_left(folder: Path) -> int | None:
    """Bytes that a cgroup may still take; None: it has no limit of its own."""
    try:
        # Beyond `high` a group is not killed, it is slowed down and swapped: no room either.
        files = (folder / "memory.max", folder / "memory.high")
        words = [file.read_text(encoding="ascii").strip() for file in files if file.exists()]
        limits = [int(word) for word in words if word != "max"]
        if not limits:
            return None
        current = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = _fields((folder / "memory.stat").read_text(encoding="ascii"))
        # Clean file pages are counted as used, and given back when something else is wanted.
        reclaimable = stat.get("inactive_file", 0) + stat.get("active_file", 0)
        return min(UNLIMITED, max(0, min(limits) - max(0, current - reclaimable)))
    except (OSError, ValueError):
        return None


class _NvmlMemory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _nvidia_left() -> int:
    """Free bytes of all NVIDIA GPUs by NVML; 0 where there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        count, left = ctypes.c_uint(), 0
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return 0
        for index in range(count.value):
            device, memory = ctypes.c_void_p(), _NvmlMemory()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0 and (
                nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
            ):
                left += memory.free
        return left
    finally:
        nvml.nvmlShutdown()
