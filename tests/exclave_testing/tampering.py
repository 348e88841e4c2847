"""What an intruder who knows the formats does to database files, with SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exclave_agent.audit.chain import TILE_HEIGHT
from exclave_agent.storage.migrations.state import SEQ_BITS
from exclave_protocol.leaf import NO_PREV, Leaf, decode_leaf, encode_leaf
from exclave_protocol.tree import Frontier, MemoryTree, leaf_hash

from .homes import execute, state

FIRST = 1 << SEQ_BITS
"""Row id of seq 0 in epoch 1."""


def leaf_at(home: Path, seq: int) -> tuple[bytes, bytes]:
    """(data, hash) as they lie on disk."""
    ((data, digest),) = execute(
        state(home), "SELECT data, hash FROM leaf WHERE id = ?", [FIRST + seq]
    )
    assert isinstance(data, bytes)
    assert isinstance(digest, bytes)
    return data, digest


def put(home: Path, seq: int, data: bytes, digest: bytes | None = None) -> None:
    """Other bytes in a leaf's row; the hash that they have, or the one that is given."""
    execute(
        state(home),
        "UPDATE leaf SET data = ?, hash = ? WHERE id = ?",
        [data, digest or leaf_hash(data), FIRST + seq],
    )


def cut(home: Path, size: int) -> None:
    """Nothing is left from `size` on."""
    execute(state(home), "DELETE FROM leaf WHERE id >= ?", [FIRST + size])


def told_otherwise(leaf: Leaf) -> Leaf:
    """The same record, of another decision."""
    return replace(leaf, body={**leaf.body, "decision": "another"})


def rechain(home: Path, first: int, change: Callable[[Leaf], Leaf] = told_otherwise) -> list[bytes]:
    """Change the record `first` and make hashes, chain and stored tree fit it; all hashes."""
    rows = execute(state(home), "SELECT data FROM leaf ORDER BY id")
    leaves = [decode_leaf(data) for (data,) in rows if isinstance(data, bytes)]
    leaves[first] = change(leaves[first])
    prev, hashes = NO_PREV, list[bytes]()
    for seq, leaf in enumerate(leaves):
        data = encode_leaf(replace(leaf, prev=prev))
        prev = leaf_hash(data)
        hashes.append(prev)
        if seq >= first:
            put(home, seq, data)
    tree = MemoryTree(hashes)
    for level, place in execute(state(home), "SELECT level, position FROM node"):
        assert isinstance(level, int) and level % TILE_HEIGHT == 0
        assert isinstance(place, int)
        execute(
            state(home),
            "UPDATE node SET hash = ? WHERE level = ? AND position = ?",
            [tree.node(level, place), level, place],
        )
    return hashes


def retell(database: Path, name: str, seq: int, change: Callable[[Leaf], Leaf] | None) -> None:
    """An own log of the coordinator's ("operator" or "cosigned"), chained anew with its state:
    `seq` changed, or everything from there on gone."""
    rows = execute(database, f"SELECT data FROM {name}_leaves ORDER BY seq")
    leaves = [decode_leaf(data) for (data,) in rows if isinstance(data, bytes)]
    if change is None:
        execute(database, f"DELETE FROM {name}_leaves WHERE seq >= ?", [seq])
        leaves = leaves[:seq]
    else:
        leaves[seq] = change(leaves[seq])
    prev, frontier = NO_PREV, Frontier()
    for place, leaf in enumerate(leaves):
        data = encode_leaf(replace(leaf, prev=prev))
        prev = leaf_hash(data)
        frontier.append(prev)
        values = [data, prev, place]
        execute(database, f"UPDATE {name}_leaves SET data = ?, hash = ? WHERE seq = ?", values)
    state_now = [frontier.size, prev, b"".join(frontier.peaks)]
    execute(database, f"UPDATE {name}_state SET size = ?, head = ?, peaks = ?", state_now)
