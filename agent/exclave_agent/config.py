"""The agent's settings: one frozen value, read once from `agent.toml` and the environment.

Precedence: command line, then EXCLAVE_<NAME>, then the settings file, then the default. The
file is `<home>/agent.toml`; where there is none, and home is that of the system service,
/etc/exclave/agent.toml.
An unknown key or an impossible value is refused by name; nothing is guessed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from exclave_agent.errors import AgentError

DEFAULT_HOME = Path("/var/lib/exclave")
SYSTEM_FILE = Path("/etc/exclave/agent.toml")
"""Settings of the agent that is a system service, whose home is DEFAULT_HOME."""
LIVE = ("log_level", "heartbeat", "upload_interval", "reconcile_interval")
"""What a running agent can take over; everything else counts from the next start."""
_PROXY = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?")
_ENDPOINT = re.compile(
    r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?"
)
LARGEST_BODY = 64 << 20
"""Bytes; no model takes more in one request (runtimes/frames.py)."""


class ConfigError(AgentError):
    """A setting is unknown or impossible; the message names it and says what is allowed."""

    code = "config_invalid"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator may set. Durations are seconds, sizes bytes."""

    home: Path = DEFAULT_HOME
    """Where identity, databases, releases and models live; mode 0700."""
    listen: str = "127.0.0.1:8181"
    """host:port of the local HTTP API; loopback only. Port 0: any free one. Empty: none."""
    socket: str = "run/agent.sock"
    """Unix socket of the same API, relative to home. Empty: none."""
    worker_socket: str = ""
    """Unix socket of a service manager that starts the models' workers. Empty: they are child
    processes of the agent."""
    remote_proxy: str = ""
    """URL of the HTTP proxy to remote models' endpoints, http://host:port. Empty: none."""
    remote_ca: str = ""
    """PEM file of the only CA certificates that remote models' endpoints may have. Empty: the
    system's."""
    ram_budget_mib: int = 0
    """MiB of memory that the models may take together. 0: four fifths of what is free, or of
    what the agent's cgroup allows, when it starts."""
    vram_budget_mib: int = 0
    """MiB of GPU memory for them. 0: nine tenths of what is free at the start."""
    max_body: int = 4 * 1024 * 1024
    """Largest request body."""
    max_connections: int = 256
    """Most simultaneous HTTP connections."""
    heartbeat: int = 3600
    """Seconds between HEARTBEAT leaves."""
    key_rotation: int = 86400
    """Seconds after which a running agent signs its log with a new key."""
    boot_proof: str = "eager"
    """`eager`: decide while the coordinator is asked whether this log is the one that goes on, and
    stop if it is shown not to be. `required`: decide nothing before it has confirmed that."""
    upload_interval: int = 30
    """Longest time between two uploads of new audit leaves."""
    reconcile_interval: int = 300
    """Seconds after which the agent re-reads what it should run, pushed to or not."""
    stop_grace: int = 20
    """Seconds that running requests get at shutdown."""
    log_level: str = "info"
    """debug, info, warning or error."""
    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of each decision,
    such as http://127.0.0.1:4318. Empty: no traces."""

    def path(self, name: str) -> Path:
        """A path below home."""
        return self.home / name


def load_settings(
    home: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of the agent in `home`.

    Raises: ConfigError naming the key, its source, and what is allowed.
    """
    env = os.environ if environ is None else environ
    base = home or Path(env.get("EXCLAVE_HOME") or DEFAULT_HOME)
    values: dict[str, Any] = {"home": base}
    file = settings_file(base)
    if file is not None:
        values |= _from_file(file)
    for spec in fields(Settings):
        name = f"EXCLAVE_{spec.name.upper()}"
        if spec.name != "home" and name in env:
            values[spec.name] = _parse(spec.name, env[name], name)
    for key, value in (overrides or {}).items():
        if value is not None:
            values[key] = value
    settings = Settings(**values)
    _check(settings)
    return settings


def settings_file(home: Path) -> Path | None:
    """The file that counts for an agent's home; None: there is none."""
    candidates = [home / "agent.toml"]
    if home == DEFAULT_HOME:
        candidates.append(SYSTEM_FILE)
    return next((file for file in candidates if file.exists()), None)


def differences(old: Settings, new: Settings) -> tuple[str, ...]:
    """Names of the settings that are not the same."""
    names = [spec.name for spec in fields(Settings)]
    return tuple(name for name in names if getattr(old, name) != getattr(new, name))


def _from_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    kinds = {spec.name: spec for spec in fields(Settings) if spec.name != "home"}
    for key, value in document.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{file} sets the unknown key {key!r}{hint}")
        want = type(getattr(Settings(), key))
        if type(value) is not want:
            raise ConfigError(
                f"{file}: {key} must be {want.__name__}, and is {type(value).__name__}"
            )
    return document


def _parse(key: str, text: str, source: str) -> Any:
    if not isinstance(getattr(Settings(), key), int):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{source} must be a whole number") from error


def _check(settings: Settings) -> None:
    for key, low, high in (
        ("ram_budget_mib", 0, 1 << 24),
        ("vram_budget_mib", 0, 1 << 24),
        ("max_body", 1024, LARGEST_BODY),
        ("max_connections", 1, 65536),
        ("heartbeat", 1, 30 * 86400),
        ("key_rotation", 60, 30 * 86400),
        ("upload_interval", 1, 86400),
        ("reconcile_interval", 1, 86400),
        ("stop_grace", 1, 3600),
    ):
        value = getattr(settings, key)
        if not low <= value <= high:
            raise ConfigError(f"{key} must be from {low} to {high}, and is {value}")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError("log_level must be debug, info, warning or error")
    if settings.boot_proof not in ("eager", "required"):
        raise ConfigError("boot_proof must be eager or required")
    if settings.listen:
        host, port = split_address(settings.listen, "listen")
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                f"listen must be a loopback address (127.0.0.1, ::1 or localhost), not {host!r}; "
                "put a TLS-terminating proxy of your own before it to serve other machines"
            )
        if port > 65535:
            raise ConfigError("listen names a port above 65535")
    if settings.remote_proxy and not _PROXY.fullmatch(settings.remote_proxy):
        raise ConfigError("remote_proxy must be http://host:port, without a user or a password")
    if settings.remote_ca and not Path(settings.remote_ca).is_absolute():
        raise ConfigError("remote_ca must be the absolute path of a PEM file")
    if settings.otlp_endpoint and not _ENDPOINT.fullmatch(settings.otlp_endpoint):
        raise ConfigError("otlp_endpoint must be http(s)://host:port, without a user or a password")
    if not settings.listen and not settings.socket:
        raise ConfigError("listen and socket are both empty: nobody could reach the agent")


def split_address(text: str, key: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises: ConfigError naming `key`."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"{key} must be host:port, such as 127.0.0.1:8181")
    return host.strip("[]"), int(port)
