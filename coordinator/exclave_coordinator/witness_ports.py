"""What witnessing asks of the world: outside logs, outside witnesses, and what is kept of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from exclave_protocol.note import VerifyKey


@dataclass(frozen=True, slots=True)
class OutsideLog:
    """Somebody else's log that our witness cosigns: no leaf of it is here."""

    origin: str
    size: int = 0
    root: bytes = b""
    """Of the newest cosigned checkpoint; empty: none was cosigned."""
    checkpoint: bytes = b""
    """That checkpoint as the log's signed note, without our cosignature."""
    cosigned_at: int = 0
    """Seconds since the epoch: the cosignature's timestamp."""
    fork: tuple[bytes, bytes] | None = None
    """Two notes signed by the log that exclude each other, the one that we cosigned first."""


@dataclass(frozen=True, slots=True)
class Cosignature:
    """An outside witness's newest cosignature on a log of the coordinator's own."""

    log: str
    """Origin."""
    witness: str
    """The witness's vkey."""
    size: int
    peaks: tuple[bytes, ...]
    """Frontier at `size`: the next consistency proof begins there."""
    cosigned_at: int
    """Seconds since the epoch, as the witness says."""
    note: bytes
    """The checkpoint that we signed, with the witness's line."""


class Witnessing(Protocol):
    """Outside logs that we cosign, and what outside witnesses cosigned of ours."""

    def log(self, origin: str) -> OutsideLog | None: ...
    def logs(self) -> Sequence[OutsideLog]:
        """By origin."""
        ...

    def put_log(self, log: OutsideLog) -> None:
        """Insert, or replace that of the same origin."""
        ...

    def cosignature(self, log: str, witness: str) -> Cosignature | None: ...
    def cosignatures(self) -> Sequence[Cosignature]:
        """By log and witness."""
        ...

    def put_cosignature(self, cosignature: Cosignature) -> None:
        """Insert, or replace that of the same log and witness."""
        ...


class OutsideWitness(Protocol):
    """A witness at somebody else's machine (C2SP tlog-witness)."""

    @property
    def key(self) -> VerifyKey:
        """Its key, type 0x04, as it was configured."""
        ...

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
        """Ask it to cosign; returns signature lines of which nothing was verified.

        Raises: Stale (with the size that it cosigned last), Inconsistent, Denied, NotFound
        (it does not know our log), Invalid, Unavailable (not reached in time, or an answer
        that is none).
        """
        ...
