"""What must survive a restart: which release runs, which one to fall back to, and the floors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from exclave_agent.errors import StorageForeign
from exclave_agent.ports import StateStore

STATE_KEY: Final = "releases.state"
CHECKED_KEY: Final = "releases.checked"
SCHEMA: Final = "exclave.releases/v1"


@dataclass(frozen=True, slots=True)
class Kept:
    """One activated release, enough to find and verify it again."""

    digest: str
    """Of the manifest, which lies among the artifacts."""
    length: int
    """Of the manifest, bytes."""
    version: int
    generation: int
    policy_digest: str
    models_digest: str
    """SHA-256 (hex) over the models' names, files and parameters: equal means equal models."""


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """One durable value, written as a whole before an activation takes effect."""

    current: Kept | None = None
    last_known_good: Kept | None = None
    generation: int = 0
    """Newest assignment accepted as genuine, activated or not: lower ones are replays."""
    floor: int = 0
    """Highest minimum_version of all releases run: none below it may run again."""
    reverted: int = 0
    """Generation that was activated and then left; not tried again by itself."""
    root_version: int = 0
    targets_version: int = 0
    """Newest TUF versions seen; they hold even when the metadata folder is lost."""

    def with_metadata(self, root_version: int, targets_version: int) -> ReleaseState:
        """After a verified cycle."""
        return replace(self, root_version=root_version, targets_version=targets_version)


def encode(state: ReleaseState) -> bytes:
    """As stored."""
    return json.dumps({"schema": SCHEMA, **asdict(state)}, sort_keys=True).encode()


def decode(data: bytes) -> ReleaseState:
    """Raises: StorageForeign."""
    try:
        value: dict[str, Any] = json.loads(data)
        if value.pop("schema") != SCHEMA:
            raise ValueError("schema")
        kept = {key: _kept(value.pop(key)) for key in ("current", "last_known_good")}
        numbers = {key: int(number) for key, number in value.items()}
        return ReleaseState(**kept, **numbers)  # type: ignore[arg-type]  # checked by the fields
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageForeign(f"state {STATE_KEY} is not of schema {SCHEMA}") from error


def _kept(value: Any) -> Kept | None:
    return None if value is None else Kept(**value)


class StateFile:
    """The release state in the agent's StateStore, with a copy in memory."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.now = ReleaseState()
        """What is durable."""

    async def load(self) -> int:
        """Take up what is stored; returns when metadata was last verified (ns; 0: never).

        Raises: StorageForeign, StorageError.
        """
        data = await self._store.get(STATE_KEY)
        if data is not None:
            self.now = decode(data)
        checked = await self._store.get(CHECKED_KEY)
        return int(checked) if checked is not None else 0

    async def save(self, state: ReleaseState) -> None:
        """Durable when it returns. Raises: StorageFull, StorageError; then nothing changed."""
        if state != self.now:
            await self._store.put(STATE_KEY, encode(state))
            self.now = state

    async def save_checked(self, at_ns: int) -> None:
        """When signed metadata was last verified as fresh. Raises: StorageFull, StorageError."""
        await self._store.put(CHECKED_KEY, str(at_ns).encode())
