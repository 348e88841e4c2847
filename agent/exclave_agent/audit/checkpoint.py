"""Signs what the log holds, so that a later change of the past cannot go unseen."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_protocol.checkpoint import Checkpoint, log_origin, sign_checkpoint
from exclave_protocol.identity import SpiffeId
from exclave_protocol.note import SigningKey

from .store import LeafStore, StoredCheckpoint

EPOCH = 1
"""The epoch that an agent writes."""


def log_key(agent: SpiffeId, private: Ed25519PrivateKey) -> SigningKey:
    """The key that signs this agent's log; its name is the log's origin."""
    return SigningKey(log_origin(agent.trust_domain, agent.tenant, agent.name, EPOCH), private)


@dataclass(frozen=True, slots=True)
class Signed:
    """A head and its signed note."""

    checkpoint: Checkpoint
    note: bytes


class Checkpointer:
    """Signs heads with the agent's audit key.

    A signed head MUST be on disk before anybody else sees it: a restart then still knows
    what it once claimed. What is signed is what the writer appended, never what a file says.
    """

    def __init__(self, store: LeafStore, key: SigningKey) -> None:
        self._store = store
        self._key = key

    async def sign(self) -> Signed:
        """Sign the head as it is now. Raises: StorageFull, StorageError."""
        head = await self._store.head()
        checkpoint = Checkpoint(self._store.origin, head.size, head.root)
        note = sign_checkpoint(checkpoint, self._key)
        await self._store.save_checkpoint(StoredCheckpoint(head.size, note, cosigned=False))
        return Signed(checkpoint, note)
