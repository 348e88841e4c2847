"""What lies on disk, held to what was written before any of it is sent or proven."""

from __future__ import annotations

from itertools import islice

from exclave_agent.errors import StorageError
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.errors import ProofError
from exclave_protocol.tree import (
    Frontier,
    consistency_proof,
    leaf_hash,
    peaks,
    root,
    verify_consistency,
)

from .store import LeafStore, LogReader


async def check_unsent(store: LeafStore, first: int) -> int:
    """Hold the leaves from `first` on to the tree that the writer has in memory; returns the size
    up to which they are sound. Sent and stored, a record that somebody edited would be ours for
    ever. Raises: StorageError ("log_altered")."""
    head = await store.head()

    def query(reader: LogReader) -> bool:
        frontier = Frontier.from_peaks(first, peaks(first, reader.node))
        for stored in islice(reader.scan(first), head.size - first):
            if leaf_hash(stored.data) != stored.hash:
                return False
            frontier.append(stored.hash)
        return frontier.size == head.size and frontier.root() == head.root

    try:
        sound = await store.read(query)
    except ProofError:
        sound = False
    if not sound:
        raise _altered(f"from {first} on it holds other leaves than were appended")
    return head.size


async def prove(store: LeafStore, old: int, new: Checkpoint) -> list[bytes]:
    """The consistency proof from disk, checked against what we signed before it is sent.

    Raises: StorageError ("log_altered").
    """

    def query(reader: LogReader) -> list[bytes]:
        proof = consistency_proof(old, new.size, reader.node)
        verify_consistency(old, root(old, reader.node), new.size, new.root, proof)
        return proof

    try:
        return await store.read(query)
    except ProofError as error:
        raise _altered(error.message) from error


def _altered(why: str) -> StorageError:
    return StorageError(
        f"the log on disk no longer has what was written ({why}); run `exclave-agent audit verify`",
        code="log_altered",
    )
