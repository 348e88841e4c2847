"""Where an upgrade stands, durable before each step is taken: what a crash leaves is taken up.

VERIFIED > INSTALLING > INSTALLED > CHECKING > DONE
                |           |           |
                +-----------+-----------+--> REVERTING > REVERTED | FAILED
REFUSED: ended before anything was changed, or because somebody installed another version
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from exclave_agent.disk import sync_folder
from exclave_agent.releases.files import write_durably
from exclave_agent.upgrade.letters import Outcome, Result
from exclave_protocol.errors import PackageError
from exclave_protocol.packages import Package

SCHEMA: Final = "exclave.upgrade-state/v1"
STATE: Final = "state.json"
UNFINISHED: Final = "unfinished"
"""Exists while an upgrade is not finished: exclave-upgrade.path starts the service for it."""


class Phase(StrEnum):
    """Each is written before what it names begins."""

    VERIFIED = "verified"
    """Both packages are verified and kept; nothing is changed."""
    INSTALLING = "installing"
    INSTALLED = "installed"
    CHECKING = "checking"
    """The agent is restarted and watched."""
    REVERTING = "reverting"
    DONE = "done"
    REVERTED = "reverted"
    FAILED = "failed"
    REFUSED = "refused"

    @property
    def final(self) -> bool:
        """Nothing is left to do but to tell."""
        return str(self) in {str(outcome) for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class Before:
    """The agent before the upgrade: what a healthy one is compared with."""

    release: str = ""
    """Digest of the active release; empty: none."""
    release_version: int = 0
    connected: bool = False
    """To its coordinator."""

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Before:
        """From a status of the agent; what it does not say is not asked for later."""
        release, link = status.get("release"), status.get("coordinator")
        connected = isinstance(link, Mapping) and link.get("connected") is True
        if not isinstance(release, Mapping):
            return cls(connected=connected)
        digest, version = release.get("digest"), release.get("version")
        return cls(
            release=digest if isinstance(digest, str) else "",
            release_version=version if isinstance(version, int) else 0,
            connected=connected,
        )


@dataclass(frozen=True, slots=True)
class State:
    """One upgrade, replaced as a whole."""

    phase: Phase
    id: str
    started: int
    """Seconds since the epoch; as is `changed`."""
    changed: int
    present: Package | None = None
    """The package to go back to."""
    target: Package | None = None
    deadline: float = 60.0
    """Seconds that a version gets to be healthy."""
    before: Before = field(default_factory=Before)
    code: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()

    def result(self) -> Result:
        """Of a final state."""
        return Result(
            id=self.id,
            present=self.present.version if self.present else "",
            target=self.target.version if self.target else "",
            outcome=Outcome(self.phase),
            code=self.code,
            message=self.message,
            warnings=self.warnings,
            started=self.started,
            finished=self.changed,
        )


def encode(state: State) -> bytes:
    """As stored."""
    value = asdict(state) | {
        "schema": SCHEMA,
        "phase": str(state.phase),
        "present": state.present and state.present.to_json(),
        "target": state.target and state.target.to_json(),
    }
    return (json.dumps(value, sort_keys=True) + "\n").encode()


def decode(data: bytes) -> State:
    """Raises: ValueError."""
    try:
        value = json.loads(data)
        if value.pop("schema") != SCHEMA:
            raise ValueError("schema")
        return State(
            phase=Phase(value.pop("phase")),
            present=_package(value.pop("present")),
            target=_package(value.pop("target")),
            before=Before(**value.pop("before")),
            warnings=tuple(value.pop("warnings")),
            **value,
        )
    except (KeyError, TypeError, AttributeError, PackageError) as error:
        raise ValueError(f"not of schema {SCHEMA}") from error


def _package(value: object) -> Package | None:
    return None if value is None else Package.from_json(value)


class Book:
    """The state on disk, in root's folder; everyone may read it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / STATE
        self._mark = folder / UNFINISHED

    @property
    def unfinished(self) -> bool:
        """Whether an upgrade was begun and not finished."""
        return self._mark.exists()

    def load(self) -> State | None:
        """What is durable; None: nothing, or nothing that can be read. Raises: OSError."""
        try:
            return decode(self._file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def save(self, state: State) -> None:
        """Durable when it returns. Raises: OSError."""
        write_durably(self._file, encode(state))
        # After the state: a mark alone would have an older upgrade finished again.
        if not self._mark.exists():
            write_durably(self._mark, b"")

    def close(self) -> None:
        """Nothing is left to take up. Raises: OSError."""
        self._mark.unlink(missing_ok=True)
        sync_folder(self._mark.parent)
