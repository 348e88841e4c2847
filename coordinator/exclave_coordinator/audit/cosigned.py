"""The witness's log: a leaf for every checkpoint that it cosigned, so that none is secret."""

from __future__ import annotations

from exclave_coordinator.audit.chain import OwnLog
from exclave_coordinator.ports import Clock, Tx
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.leaf import LeafType
from exclave_protocol.note import SigningKey
from exclave_protocol.witness import cosigned_body


class CosignedLog(OwnLog):
    """One leaf each: what the cosignature over a checkpoint says, in its own fields."""

    def __init__(self, key: SigningKey, witness_vkey: str, version: str, *, clock: Clock) -> None:
        """`key` is named after the log's origin; `witness_vkey` is the key that cosigns."""
        genesis: dict[str, JsonValue] = {"version": version, "witness_vkey": witness_vkey}
        super().__init__(key, lambda tx: tx.cosigned, genesis, clock=clock)

    def append(self, tx: Tx, checkpoint: Checkpoint, cosigned_at: int) -> int:
        """Record what is about to be cosigned; returns its seq. Raises: StorageError.

        `cosigned_at`: the cosignature's timestamp, seconds since the epoch.
        """
        return self.add(tx, LeafType.COSIGNED, cosigned_body(checkpoint, cosigned_at))
