"""The one agent that doctor looks at: its settings, and what several checks want to know of it.

Everything is looked up at most once, and only when a check asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from exclave_agent.config import Settings
from exclave_agent.doctor.machine import Machine
from exclave_agent.doctor.properties import SHOWN
from exclave_agent.errors import AgentError
from exclave_agent.identity.store import Identity
from exclave_agent.ports import Clock
from exclave_agent.releases.state import ReleaseState
from exclave_protocol.release import ReleaseManifest

SERVICE: Final = "exclave-agent.service"
WORKER: Final = "exclave-worker@doctor.service"
"""An instance that never runs: systemd tells its settings all the same."""
WORKER_SOCKET: Final = "exclave-worker.socket"
SERVICE_USER: Final = "exclave"
WORKER_USER: Final = "exclave-worker"
SYSTEMD: Final = Path("/run/systemd/system")
"""There when systemd is what runs this machine; sd_booted(3)."""

NTP: Final = ("timedatectl", "show", "-p", "NTPSynchronized", "--value")

Status = Mapping[str, Any]


def show_command(unit: str) -> tuple[str, ...]:
    """Asks systemd for a unit's properties: those that hold no secret, and no others."""
    return ("systemctl", "show", unit, "--no-pager", "-p", ",".join(SHOWN))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the agent's identity, with its private keys or without."""

    spiffe: str
    session_endpoint: str
    enroll_endpoint: str
    ca_pem: bytes
    not_before: int
    not_after: int
    identity: Identity | None
    """None: the private keys cannot be used from here."""
    trouble: AgentError | None = None
    """Why not."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the agent's database says of its releases."""

    state: ReleaseState = field(default_factory=ReleaseState)
    checked_ns: int = 0
    """When signed metadata was last found fresh; 0: never."""
    floor_ns: int = 0
    """The latest time that the agent has seen; 0: none on record."""
    manifest: ReleaseManifest | None = None
    """Of the release that runs, or would."""


@dataclass
class Site:
    """Give it to `examine`."""

    settings: Settings
    machine: Machine
    clock: Clock
    ask: Callable[[], Status | None]
    """The running agent's status; None: nothing answers."""
    verify: Callable[[], int]
    """Check the whole log; the number of its leaves. Raises: AgentError."""
    offline: bool = False
    """Stay off the network."""
    settings_error: str = ""
    """Why `settings` are the defaults, and not what the operator wrote."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Setting -> where its value is from; the others have their defaults."""

    @property
    def home(self) -> Path:
        """The agent's home."""
        return self.settings.home

    @property
    def now(self) -> float:
        """This machine's time, seconds since the epoch."""
        return self.clock.now_ns() / 1e9

    @cached_property
    def status(self) -> Status | None:
        """What the running agent says; None when there is none."""
        return self.ask()

    @cached_property
    def loaded(self) -> frozenset[str]:
        """Digests of the models that the running agent has loaded."""
        if not self.status:
            return frozenset()
        plan = self.status.get("memory", {}).get("models", [])
        out = {str(model["digest"]) for model in plan if model["state"] != "loaded"}
        return frozenset(str(model["digest"]) for model in self.status["models"]) - out

    @cached_property
    def known(self) -> Known | AgentError:
        """The identity, or why there is none. Raises: PermissionError."""
        from exclave_agent.identity.store import load

        try:
            identity = load(self.home)
        except AgentError as error:
            return self._public_part(error)
        return Known(
            str(identity.spiffe),
            identity.session_endpoint,
            identity.enroll_endpoint,
            identity.ca_pem,
            identity.not_before,
            identity.not_after,
            identity,
        )

    def _public_part(self, trouble: AgentError) -> Known | AgentError:
        """Certificates and names say much even where the keys are out of reach."""
        from cryptography import x509

        from exclave_agent.identity.certificates import validity
        from exclave_agent.identity.store import identity_folder

        folder = identity_folder(self.home)
        files = [self.machine.read(folder / name) for name in ("join.json", "cert.pem", "ca.pem")]
        record, cert, authority = (file or b"" for file in files)
        try:
            names = json.loads(record)
            leaf = x509.load_pem_x509_certificate(cert)
            spiffe, session = str(names["spiffe_id"]), str(names["session_endpoint"])
            enroll = str(names["enroll_endpoint"])
        except (ValueError, KeyError, TypeError):
            return trouble
        period = validity(leaf)
        return Known(
            spiffe, session, enroll, authority, period.not_before, period.not_after, None, trouble
        )

    @cached_property
    def kept(self) -> Kept | None:
        """What state.db says; None where there is none yet.

        Raises: StorageError, PermissionError.
        """
        from exclave_agent.doctor.kept import read_kept

        return read_kept(self.home, self.machine)

    # --- the service manager ------------------------------------------------------------

    @cached_property
    def no_service(self) -> str:
        """Why there is nothing to ask the service manager; empty: there is."""
        if self.machine.stat(SYSTEMD) is None:
            return "systemd does not run this machine"
        if self.service.get("LoadState") != "loaded":
            return f"{SERVICE} is not installed"
        return ""

    @cached_property
    def service(self) -> Mapping[str, str]:
        """Properties of the agent's unit, as `systemctl show` prints them."""
        return self.show(SERVICE)

    @cached_property
    def worker(self) -> Mapping[str, str]:
        """Properties that any worker's unit would have."""
        return self.show(WORKER)

    def show(self, unit: str) -> Mapping[str, str]:
        """`systemctl show`. A property that is missing is not known to this systemd."""
        lines = self.machine.run(show_command(unit)).out.splitlines()
        pairs = (line.partition("=") for line in lines)
        found: dict[str, str] = {}
        for name, equals, value in pairs:
            # DeviceAllow and the like come once for each entry.
            if equals:
                found[name] = f"{found[name]} {value}" if found.get(name) else value
        return found
