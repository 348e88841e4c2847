"""The units and drop-ins of the service: names, places, and which of them this machine gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exclave_agent.install.host import Host

USER: Final = "exclave"
WORKER_USER: Final = "exclave-worker"
AGENT: Final = "exclave-agent.service"
WORKERS: Final = "exclave-worker.socket"
WORKER: Final = "exclave-worker@.service"
UPGRADE: Final = "exclave-upgrade.path"
STARTED: Final = (WORKERS, UPGRADE, AGENT)
"""Enabled and started, in this order."""

SHIPPED: Final = Path("/usr/lib/systemd/system")
LOCAL: Final = Path("/etc/systemd/system")
TEMPLATES: Final = Path("/opt/exclave/agent/share/drop-ins")
GPU_SYSUSERS: Final = Path("/etc/sysusers.d/exclave-gpu.conf")
LEAST_SYSTEMD: Final = 252
"""The oldest version that the units were tested with (Debian 12)."""
KNOWS_STEPS: Final = 254
"""RestartSteps=, FileDescriptorStorePreserve=."""


@dataclass(frozen=True, slots=True)
class DropIn:
    """A file of ours below /etc: written where it applies, removed where it does not."""

    template: str
    path: Path
    applies: bool

    @property
    def source(self) -> Path:
        """The template that the package brings."""
        return TEMPLATES / self.template


def systemd_version(host: Host) -> int:
    """The running systemd's version; 0: none answers."""
    found = re.match(rb"systemd (\d+)", host.run(["systemctl", "--version"]).out)
    return int(found[1]) if found else 0


def has_gpu(host: Host) -> bool:
    """Whether the kernel shows a device that workers could compute on.

    A dri/renderD* alone says nothing: every display adapter has one.
    """
    dev = Path("/dev")
    return any(
        host.glob(dev, pattern) for pattern in ("nvidiactl", "nvidia[0-9]*", "kfd", "accel/accel*")
    )


def drop_ins(version: int, gpu: bool) -> tuple[DropIn, ...]:
    """Every drop-in that may be ours, by what this machine is."""
    return (
        DropIn(
            "10-systemd-254.conf",
            LOCAL / f"{AGENT}.d" / "10-exclave-systemd.conf",
            version >= KNOWS_STEPS,
        ),
        DropIn("20-gpu.conf", LOCAL / f"{WORKER}.d" / "20-exclave-gpu.conf", gpu),
        DropIn("20-gpu-socket.conf", LOCAL / f"{WORKERS}.d" / "20-exclave-gpu.conf", gpu),
        DropIn("exclave-gpu.sysusers", GPU_SYSUSERS, gpu),
    )
