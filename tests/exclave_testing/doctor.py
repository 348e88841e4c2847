"""An agent's home with an identity, a release and metadata, and the site that doctor looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exclave_agent.config import Settings
from exclave_agent.doctor.kept import artifact
from exclave_agent.doctor.report import Check
from exclave_agent.doctor.site import SERVICE, WORKER, WORKER_SOCKET, Site, Status, show_command
from exclave_agent.identity import join
from exclave_agent.releases.state import CHECKED_KEY, STATE_KEY, Kept, ReleaseState, encode
from exclave_agent.storage.home import Storage
from exclave_agent.system import CLOCK_FLOOR_KEY
from exclave_protocol.release import (
    ArtifactRef,
    ModelEntry,
    ReleaseManifest,
    model_path,
    policy_path,
)
from exclave_testing.clock import START_NS, FakeClock, SeededRng
from exclave_testing.desk import Desk
from exclave_testing.machine import FakeMachine
from exclave_testing.tuf_repo import TENANT, TufRepo

START = START_NS / 1e9
MEMINFO = b"MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   12000000 kB\n"


@dataclass
class Patient:
    """What doctor looks at; change it, then `check`."""

    home: Path
    machine: FakeMachine
    clock: FakeClock
    status: Status | None = None
    verified: Callable[[], int] = lambda: 7
    offline: bool = True
    settings_error: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    def site(self) -> Site:
        """As `exclave-agent doctor` makes it."""
        return Site(
            Settings(home=self.home),
            self.machine,
            self.clock,
            ask=lambda: self.status,
            verify=lambda: self.verified(),
            offline=self.offline,
            settings_error=self.settings_error,
            sources=self.sources,
        )

    def under_systemd(self, **units: Mapping[str, str]) -> None:
        """Installed as the package does; `service`, `worker`, `socket` change properties."""
        self.machine.files["/run/systemd/system"] = None
        for unit, name, shown in (
            (SERVICE, "service", SHOWN_SERVICE),
            (WORKER, "worker", SHOWN_WORKER),
            (WORKER_SOCKET, "socket", SHOWN_SOCKET),
        ):
            properties = {**shown, **units.get(name, {})}
            text = "".join(f"{key}={value}\n" for key, value in properties.items())
            self.machine.commands[" ".join(show_command(unit))] = text
        self.machine.commands["timedatectl"] = "yes\n"
        self.machine.commands["systemctl --version"] = "systemd 252 (252.39)\n+PAM -BPF_FRAMEWORK\n"


def patient(home: Path) -> Patient:
    """A home that is there and empty, on a machine without systemd."""
    home.mkdir(mode=0o700, exist_ok=True)
    machine = FakeMachine(home, files={"/proc/meminfo": MEMINFO})
    return Patient(home, machine, FakeClock())


async def enrolled(home: Path, *, ttl: float = 86_400, host: str = "127.0.0.1") -> Desk:
    """Give the home an identity whose certificate begins at START; `host` is the coordinator."""
    desk = Desk(lambda: START, ttl=ttl, endpoint=f"{host}:7444", session_endpoint=f"{host}:7443")
    await join(home, desk.token, desk)
    return desk


def model(
    name: str, data: bytes, *, runtime: str = "onnx", length: int = 0, **parameters: Any
) -> ModelEntry:
    """A model of a manifest; `length`: as if the file were so long."""
    digest = hashlib.sha256(data).hexdigest()
    size = length or len(data)
    return ModelEntry(name, runtime, model_path(digest), digest, size, parameters)


async def release(
    home: Path,
    *models: ModelEntry,
    files: Sequence[bytes] = (),
    grace: int = 3600,
    floor_ns: int = 0,
    checked_ns: int = START_NS,
) -> ReleaseManifest:
    """Put an active release into the home; `files` are those that lie there."""
    policy = b"policy"
    digest = hashlib.sha256(policy).hexdigest()
    manifest = ReleaseManifest(
        tenant=TENANT,
        version=3,
        created="2030-03-17T00:00:00Z",
        minimum_version=0,
        offline_grace_seconds=grace,
        policy=ArtifactRef(policy_path(digest), digest, len(policy)),
        models=models,
    )
    data = manifest.encode()
    for content in (policy, data, *files):
        path = artifact(home, hashlib.sha256(content).hexdigest())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
    kept = Kept(hashlib.sha256(data).hexdigest(), len(data), 3, 5, digest, "0" * 64)
    async with Storage(home, SeededRng(1)) as storage:
        await storage.state.put(STATE_KEY, encode(ReleaseState(current=kept)))
        await storage.state.put(CHECKED_KEY, str(checked_ns).encode())
        if floor_ns:
            await storage.state.put(CLOCK_FLOOR_KEY, str(floor_ns).encode())
    return manifest


def metadata(home: Path, *, targets_days: float = 90) -> None:
    """Signed metadata as the agent keeps it; snapshot and timestamp last a day."""
    repo = TufRepo()
    repo.publish(targets_days=targets_days)
    folder = home / "tuf" / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    for role, name in (
        ("root", "1.root.json"),
        ("targets", "1.targets.json"),
        ("snapshot", "1.snapshot.json"),
        ("timestamp", "timestamp.json"),
    ):
        (folder / f"{role}.json").write_bytes(repo.source.files[name])


def running(**changes: Any) -> dict[str, Any]:
    """What a healthy agent says of itself (overview.status), as far as doctor reads it."""
    return {
        "version": "0.1.0",
        "pid": 42,
        "coordinator": {
            "state": "connected",
            "error": "",
            "observed": {"phase": "APPLIED", "error_code": "", "error_message": ""},
        },
        "audit": {"error": ""},
        "release": None,
        "models": [],
        "counts": {"worker_crashes": 0},
        **changes,
    }


def said(checks: Sequence[Check]) -> dict[str, str]:
    """Name -> result, the worst where a name comes more than once."""
    order = ("skip", "ok", "warn", "fail")
    found: dict[str, str] = {}
    for check in checks:
        before = found.get(check.name, "skip")
        found[check.name] = max(before, str(check.result), key=order.index)
    return found


def shown_by(text: str) -> dict[str, str]:
    """Lines of `systemctl show` as a mapping."""
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


_HARD = """\
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateIPC=yes
PrivateMounts=yes
RemoveIPC=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
KeyringMode=private
DevicePolicy=closed
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=_llseek accept accept4 access brk capget chdir clone clone3 close read write
ExecPaths=/opt/exclave /usr/lib /lib /lib64
LimitCORE=0
UMask=0077
"""
# As systemd 252 prints the units of packaging/systemd.
SHOWN_SERVICE = shown_by(
    _HARD
    + """\
Id=exclave-agent.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
ConditionResult=yes
Result=success
NRestarts=0
User=exclave
Group=exclave
WatchdogUSec=30s
ExecMainStatus=0
ActiveEnterTimestamp=Sun 2030-03-17 17:00:00 UTC
FragmentPath=/usr/lib/systemd/system/exclave-agent.service
DropInPaths=
NeedDaemonReload=no
ProcSubset=pid
NoExecPaths=/ /var/lib/exclave /run/exclave /tmp /var/tmp /dev/shm
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
MemoryMax=6871947673
"""
)
SHOWN_WORKER = shown_by(
    _HARD
    + """\
Id=exclave-worker@doctor.service
LoadState=loaded
ActiveState=inactive
FragmentPath=/usr/lib/systemd/system/exclave-worker@.service
DropInPaths=
SupplementaryGroups=
PrivateNetwork=yes
IPAddressDeny=::/0 0.0.0.0/0
NoExecPaths=/ /tmp /var/tmp /dev/shm
InaccessiblePaths=-/var/lib/exclave -/etc/exclave -/var/lib/exclave-upgrade -/run/exclave
RestrictAddressFamilies=AF_UNIX
MemoryMax=12884901888
"""
)
SHOWN_SOCKET = shown_by(
    """\
Id=exclave-worker.socket
LoadState=loaded
ActiveState=active
SubState=listening
NAccepted=2
NConnections=2
NRefused=0
"""
)
