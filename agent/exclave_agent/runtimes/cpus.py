"""How many threads an engine should use on this machine."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores() -> int:
    """Physical cores that this process may use, within its control group's quota; at least 1.

    Two threads on one core's siblings are slower than one in matrix products.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_core(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _core(cpu: int) -> str:
    """The siblings of a CPU as the kernel lists them; the CPU itself where it does not say."""
    with contextlib.suppress(OSError):
        path = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        return path.read_text("ascii").strip()
    return str(cpu)


def _quota() -> int:
    """Whole CPUs of the control group's quota (cgroup v2), rounded up; no quota: very many."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text("ascii").split()
        if quota != "max":
            return math.ceil(int(quota) / int(period))
    return 1 << 30
