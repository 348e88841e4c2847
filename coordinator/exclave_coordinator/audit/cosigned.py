"""The witness's log: a leaf for every checkpoint that it cosigned, so that none is secret."""

from __future__ import annotations

from exclave_coordinator.audit.chain import OwnLog
from exclave_coordinator.ports import ChainState, Clock, Tx
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_protocol.note import SigningKey, add_signature, split_note
from exclave_protocol.proof import Proof
from exclave_protocol.witness import cosigned_body

LATE_SECONDS = 60
"""By which a leaf may be written after the time of its cosignature."""


class CosignedLog(OwnLog):
    """One leaf each: what the cosignature over a checkpoint says, in its own fields."""

    def __init__(self, key: SigningKey, witness_vkey: str, version: str, *, clock: Clock) -> None:
        """`key` is named after the log's origin; `witness_vkey` is the key that cosigns."""
        genesis: dict[str, JsonValue] = {"version": version, "witness_vkey": witness_vkey}
        super().__init__(key, lambda tx: tx.cosigned, genesis, clock=clock)

    def recorded(self, tx: Tx, checkpoint: Checkpoint, cosigned_at: int) -> Proof | None:
        """That a cosignature is on record, under the newest head of this log that an outside
        witness cosigned, or else under our own; None: it is not. Raises: StorageError."""
        chain = self.table(tx)
        state = chain.state()
        # The leaf is written in the second of the cosignature, or a moment later.
        span = cosigned_at * 10**9, (cosigned_at + LATE_SECONDS) * 10**9
        wanted = cosigned_body(checkpoint, cosigned_at)
        seq = next(
            (
                leaf.seq
                for leaf in chain.leaves(*chain.span(state.size, *span))
                if decode_leaf(leaf.data).body == wanted
            ),
            None,
        )
        if seq is None:
            return None
        note, size = self._best(tx, state, seq)
        return self.prove(tx, seq, note, size)

    def _best(self, tx: Tx, state: ChainState, seq: int) -> tuple[bytes, int]:
        """A note that covers a leaf, with as many outside witnesses' lines as one has."""
        found = [
            one
            for one in tx.witnessing.cosignatures()
            if one.log == self.origin and seq < one.size <= state.size
        ]
        if not found:
            return self.checkpoint(state), state.size
        newest = max(found, key=lambda one: one.size)
        note = newest.note
        for one in found:
            if one is not newest and split_note(one.note)[0] == split_note(note)[0]:
                note = add_signature(note, split_note(one.note)[1][-1].line())
        return note, newest.size

    def append(self, tx: Tx, checkpoint: Checkpoint, cosigned_at: int) -> int:
        """Record what is about to be cosigned; returns its seq. Raises: StorageError.

        `cosigned_at`: the cosignature's timestamp, seconds since the epoch.
        """
        return self.add(tx, LeafType.COSIGNED, cosigned_body(checkpoint, cosigned_at))
