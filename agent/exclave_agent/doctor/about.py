"""The machine and the installation in figures, for a support bundle."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from exclave_agent import __version__
from exclave_agent.doctor.devices import NODES, RENDER, read_gpus
from exclave_agent.doctor.engines import FOLDER, installed
from exclave_agent.doctor.site import Site
from exclave_agent.doctor.trust import ROLES
from exclave_agent.identity.store import PRIVATE_KEYS
from exclave_agent.sealing import MAGIC, is_sealed

PACKAGE: Final = Path("/opt/exclave/agent/share/contents.json")
LIBRARIES: Final = [
    "cryptography",
    "grpcio",
    "msgspec",
    "protobuf",
    "securesystemslib",
    "starlette",
    "tuf",
    "uvicorn",
    "uvloop",
]
_OS: Final = ("ID", "VERSION_ID", "PRETTY_NAME", "VERSION_CODENAME")
_MEMORY: Final = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "HugePages_Total")
_KERNEL: Final = (
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/vm/overcommit_memory",
    "/sys/kernel/security/lsm",
    "/proc/loadavg",
    "/proc/uptime",
)
_OURS: Final = (
    *(f"{name}{more}" for name in ("state.db", "vault.db") for more in ("", "-wal", "-shm")),
    "agent.toml",
    *(f"identity/{name}" for name in (*PRIVATE_KEYS, "join.json", "cert.pem", "ca.pem")),
    "tuf/1.root.json",
    *(f"tuf/metadata/{role}.json" for role in ROLES),
    "run/control.sock",
    "run/agent.sock",
    "run/endpoints.json",
)
"""Files of ours below a home. Whatever else lies there is not even named."""


def version(site: Site) -> Any:
    """Of the agent, what it stands on, and the packages that brought them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    files = [PACKAGE, *(Path(FOLDER) / name / "contents.json" for name in installed(site))]
    return {
        "agent": __version__,
        "python": platform.python_version(),
        "libraries": found,
        "packages": {str(path): _json(site, path) for path in files},
    }


def _json(site: Site, path: Path) -> Any:
    data = site.machine.read(path)
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return "not JSON"


def home(site: Site) -> Any:
    """Our files in the home by name, size, mode and owner; artifacts as a sum."""
    stats = {name: site.machine.stat(site.home / name) for name in _OURS}
    artifacts = [
        one
        for path in site.machine.glob(f"{site.home}/artifacts/sha256/*")
        if re.fullmatch(r"[0-9a-f]{64}(\.part)?", path.name)
        and (one := site.machine.stat(path)) is not None
    ]
    keys = {
        name: site.machine.read(site.home / "identity" / name, len(MAGIC)) for name in PRIVATE_KEYS
    }
    return {
        "files": {
            name: {
                "size": one.size,
                "mode": f"{one.permissions:04o}",
                "owner": site.machine.user_name(one.uid),
            }
            for name, one in stats.items()
            if one is not None
        },
        "artifacts": {"count": len(artifacts), "bytes": sum(one.size for one in artifacts)},
        "sealed": {name: is_sealed(head) for name, head in keys.items() if head is not None},
    }


def system(site: Site) -> Any:
    """The machine; nothing that names it."""
    room = site.machine.space(site.home)
    memory = _pairs(site, "/proc/meminfo")
    release = dict(line.split("=", 1) for line in _lines(site, "/etc/os-release") if "=" in line)
    systemd = site.machine.run(["systemctl", "--version"]).out.splitlines()
    return {
        "os": {key: release[key].strip('"') for key in _OS if key in release},
        "kernel": {path: text for path in _KERNEL if (text := " ".join(_lines(site, path)))},
        "architecture": platform.machine(),
        "systemd": systemd[:2],
        "cpu": _cpu(site),
        "memory": {key: memory[key] for key in _MEMORY if key in memory},
        "disk": None if room is None else asdict(room),
        "gpus": [asdict(one) for one in read_gpus(site.machine)],
        "device_nodes": [
            str(path) for pattern in (*NODES, RENDER) for path in site.machine.glob(pattern)
        ],
    }


def _cpu(site: Site) -> Any:
    lines = _lines(site, "/proc/cpuinfo")
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    flags = first.get("flags") or first.get("Features", "")
    return {
        "count": sum(line.startswith("processor") for line in lines),
        "model": first.get("model name", ""),
        "flags": sorted(flags.split()),
    }


def _pairs(site: Site, path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _lines(site, path))
    return {key: value.strip() for key, colon, value in pairs if colon}


def _lines(site: Site, path: str) -> list[str]:
    try:
        data = site.machine.read(Path(path)) or b""
    except PermissionError:
        return []
    return data.decode("utf-8", "replace").splitlines()
