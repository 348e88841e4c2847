"""Epochs: where a log that cannot go on ended, and why; and whether the present one is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from exclave_agent.errors import LogFrozen, StorageError
from exclave_agent.ports import StateStore

FIRST: Final = 1
EPOCH_KEY: Final = "audit.epoch"
FROZEN_KEY: Final = "audit.frozen"


@dataclass(frozen=True, slots=True)
class Epoch:
    """The epoch in which a home writes, and what it continues."""

    number: int = FIRST
    origin: str = ""
    """Of the log before; empty in the first epoch."""
    size: int = 0
    root: bytes = b""
    """Of its last cosigned head."""
    note: bytes = b""
    """That head, with the witness's line."""
    reason: str = ""
    held: int = 0
    """Leaves of the log before that this home held: those from `size` on were never cosigned."""

    def encode(self) -> bytes:
        """As `decode` reads it."""
        return msgspec.json.encode(self)


def former_origin(origin: str, epoch: int, former: int) -> str:
    """The origin of a former epoch's log; "": it is this one."""
    return "" if former == epoch else origin.removesuffix(str(epoch)) + str(former)


def decode(data: bytes | None) -> Epoch:
    """What is kept under EPOCH_KEY. Raises: StorageError ("epoch_damaged")."""
    if data is None:
        return Epoch()
    try:
        return msgspec.json.decode(data, type=Epoch)
    except msgspec.DecodeError as error:
        raise StorageError(
            "the log's epoch in state.db is damaged: restore the home", code="epoch_damaged"
        ) from error


async def load(state: StateStore) -> Epoch:
    """The home's present epoch. Raises: StorageError."""
    return decode(await state.get(EPOCH_KEY))


@dataclass(frozen=True, slots=True)
class Frost:
    """Why a log is frozen."""

    code: str
    detail: str

    def error(self) -> LogFrozen:
        """What every decision is refused with."""
        return LogFrozen(
            f"this home's log is frozen ({self.code}: {self.detail}): nothing is decided until an "
            "operator opens a new epoch (`exclave agent reopen`) and it begins here "
            "(`exclave-agent audit recover`)"
        )


async def frost(state: StateStore) -> Frost | None:
    """What was found in an earlier run. Raises: StorageError."""
    data = await state.get(FROZEN_KEY)
    return None if data is None else msgspec.json.decode(data, type=Frost)


async def freeze(state: StateStore, found: Frost) -> None:
    """MUST be durable before anybody is told: a restart does not thaw it."""
    await state.put(FROZEN_KEY, msgspec.json.encode(found))
