"""What the root side asks of the machine: its package manager, its service manager, the agent.

All of it blocks: the root side does one thing after another, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Stopped(Exception):
    """The service manager told us to stop; what is durable is taken up at the next start."""


class ManagerBusy(Exception):
    """Another process held the package manager for longer than we were patient."""


class InstallFailed(Exception):
    """The package manager did not do it; the text is its last word."""


class ServiceTrouble(Exception):
    """The service manager did not do it; the text is its last word."""


class Pace(Protocol):
    """Time, and whether to stop."""

    def now(self) -> int:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Raises: Stopped, at once when told to stop; `sleep(0)` asks only that."""
        ...


@dataclass(frozen=True, slots=True)
class Installed:
    """A package as the machine has it."""

    version: str
    architecture: str
    whole: bool
    """False: half-installed or not configured."""


class PackageManager(Protocol):
    """dpkg or rpm."""

    @property
    def form(self) -> str:
        """One of exclave_protocol.packages.FORMATS."""
        ...

    def installed(self, name: str) -> Installed | None:
        """None: not installed. Raises: InstallFailed (the tool does not work)."""
        ...

    def locked(self, patience: float) -> AbstractContextManager[None]:
        """Keep every other user of the package manager out; `install` and `repair` need it.

        Raises, on entry: ManagerBusy after `patience` seconds, Stopped.
        """
        ...

    def install(self, file: Path) -> None:
        """Install this file, whatever version is there. MUST NOT be interrupted once begun.

        Raises: InstallFailed.
        """
        ...

    def repair(self) -> None:
        """Finish what an interruption left. MUST NOT be interrupted. Raises: InstallFailed."""
        ...


@dataclass(frozen=True, slots=True)
class UnitState:
    """The agent's unit, in systemd's words."""

    active: str
    """ActiveState: active, activating, failed ..."""
    sub: str
    restarts: int
    """NRestarts: automatic ones since the last start by hand."""
    invocation: str
    """InvocationID: another one for each start."""
    job: bool = False
    """The service manager has something queued or running for the unit."""


class Services(Protocol):
    """The service manager, as far as the agent's unit goes."""

    def unit(self) -> UnitState:
        """Raises: ServiceTrouble."""
        ...

    def daemon_reload(self) -> None:
        """Read the unit files anew. Raises: ServiceTrouble."""
        ...

    def restart(self) -> None:
        """Begin a restart, without waiting for its end. Raises: ServiceTrouble."""
        ...


class Probe(Protocol):
    """The running agent's control socket."""

    def status(self) -> Mapping[str, Any] | None:
        """What the agent says of itself; None: it does not answer, or not as an agent."""
        ...


class Foothold(Protocol):
    """A copy of this program beside the installed one: the package manager replaces that one
    under our feet, and a crash may leave it half replaced."""

    @property
    def stands(self) -> bool:
        """Whether there is a whole copy."""
        ...

    @property
    def inside(self) -> bool:
        """Whether this process runs from it."""
        ...

    def take(self) -> None:
        """Make the copy; whole or absent after a crash. Raises: OSError."""
        ...

    def enter(self) -> None:
        """Go on as a process of the copy. Does not return. Raises: OSError."""
        ...

    def leave(self) -> None:
        """Remove the copy; a process that runs from it goes on as one of the installed program,
        and then this does not return. Raises: OSError."""
        ...

    def remove(self) -> None:
        """Remove the copy, at once for whoever looks for it. A process that runs from it can load
        nothing more. Raises: OSError."""
        ...
