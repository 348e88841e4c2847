"""Signs what the log holds, so that a later change of the past cannot go unseen."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.note import Signer

from .store import LeafStore, StoredCheckpoint


@dataclass(frozen=True, slots=True)
class Signed:
    """A head and its signed note."""

    checkpoint: Checkpoint
    note: bytes


class Checkpointer:
    """Signs heads in the term that runs.

    A signed head MUST be on disk before anybody else sees it: a restart then still knows
    what it once claimed. What is signed is what the writer appended, never what a file says.
    """

    def __init__(self, store: LeafStore, key: Signer) -> None:
        self._store = store
        self._key = key

    async def sign(self) -> Signed:
        """Sign the head as it is now. Raises: StorageFull, StorageError."""
        head = await self._store.head()
        checkpoint = Checkpoint(self._store.origin, head.size, head.root)
        note = sign_checkpoint(checkpoint, self._key)
        await self._store.save_checkpoint(StoredCheckpoint(head.size, note, cosigned=False))
        return Signed(checkpoint, note)
