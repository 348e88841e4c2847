"""`doctor`: looks at everything `serve` needs and says what to do about what is wrong."""

from __future__ import annotations

import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from exclave_coordinator import config
from exclave_coordinator.config import Settings
from exclave_coordinator.errors import CoordinatorError
from exclave_coordinator.home import ONLINE_KEYS, Home
from exclave_coordinator.ports import Clock, Rng
from exclave_coordinator.storage import database, files, tables

MIN_FREE = 1 << 30
"""Bytes: less than this, and the next release may not fit."""
CA_WARNING = 365 * 86_400
"""Seconds before the CA's end at which it is time to plan a new one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `remedy` says what to do when it failed."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(home: Home, clock: Clock, rng: Rng) -> list[Finding]:
    """Every check; one that fails does not hide the others."""
    if not home.path.is_dir():
        return [Finding("home", False, f"{home.path} is missing", "run `exclave-coordinator init`")]
    findings = [Finding("home", True, str(home.path))]
    try:
        settings = config.load(home.settings_file)
        findings.append(Finding("settings", True, "coordinator.toml is valid"))
    except CoordinatorError as error:
        findings.append(
            Finding("settings", False, error.message, "correct coordinator.toml as said")
        )
        settings = Settings()
    findings += _keys(home)
    findings.append(_checked("authority", lambda: _authority(home, settings, clock, rng)))
    findings.append(_checked("database", lambda: _schema(home)))
    findings += _exposed(home)
    findings += _ports(home, settings)
    findings.append(_disk(home))
    return findings


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except CoordinatorError as error:
        what, _, remedy = error.message.partition(": ")
        return Finding(name, False, what, remedy or "restore the home from a backup")


def _keys(home: Home) -> Iterator[Finding]:
    tenants = sorted((home.keys / "tenants").glob("*/*.key"))
    for path in [*(home.key(name) for name in ONLINE_KEYS), *tenants]:
        label = f"key {path.relative_to(home.keys)}"
        yield _checked(label, lambda path=path: _key(path))  # type: ignore[misc]  # bound early


def _key(path: Path) -> str:
    files.load_ed25519(path)
    return "readable, private"


def _authority(home: Home, settings: Settings, clock: Clock, rng: Rng) -> str:
    authority = home.authority(settings, clock, rng)
    left = authority.not_after - clock.now()
    if left < CA_WARNING:
        raise CoordinatorError(
            f"the CA ends in {max(0, left) // 86_400} days: plan a new one now, as agents "
            "must learn it before the old one ends"
        )
    return f"valid for {left // 86_400} days"


def _schema(home: Home) -> str:
    version = database.schema_version(home.database)
    if version == tables.SCHEMA_VERSION:
        return f"schema {version}"
    return f"schema {version}; the next start migrates it to {tables.SCHEMA_VERSION}"


def _exposed(home: Home) -> Iterator[Finding]:
    """Files that hold secrets or records and that others may read."""
    for path in (home.path, home.database, *home.operators.glob("*/key.pem")):
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = "700" if path.is_dir() else "600"
        yield Finding(
            f"mode {path.name}"
            if path.parent == home.path or path == home.path
            else f"mode {path.relative_to(home.path)}",
            not mode & 0o077,
            f"{mode:04o}",
            f"chmod {wanted} {path}",
        )


def _ports(home: Home, settings: Settings) -> Iterator[Finding]:
    serving = (home.run / "endpoints.json").exists()
    for setting in ("listen", "enroll_listen", "metrics_listen", "witness_listen"):
        endpoint = getattr(settings, setting)
        if not endpoint:  # a port that is not asked for
            continue
        host, port = config.split_endpoint(endpoint, setting)
        taken = _taken(host, port)
        if serving and port:
            yield Finding(
                setting,
                taken,
                f"{endpoint} {'answers' if taken else 'does not answer'}",
                "look at the log of `serve`, or remove run/endpoints.json if it was killed",
            )
        else:
            yield Finding(
                setting,
                not taken,
                f"{endpoint} is {'taken' if taken else 'free'}",
                f"stop what listens there, or change {setting} in coordinator.toml",
            )


def _taken(host: str, port: int) -> bool:
    if port == 0:
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    return Finding(
        "disk",
        free >= MIN_FREE,
        f"{free // (1 << 20)} MiB free",
        f"free at least {MIN_FREE // (1 << 20)} MiB where {home.path} is, or move the home",
    )
