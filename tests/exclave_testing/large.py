"""A bundle of as many records as one likes, which are made as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from exclave_protocol.bundle import LogSpec, write_bundle
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint, cosign, sign_checkpoint
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, encode_leaf
from exclave_protocol.note import add_signature
from exclave_protocol.tree import Frontier, leaf_hash

from .bundles import START, Log, bundle_of, recorded, spec_of, witness_key


def leaves(log: Log, count: int) -> Iterator[bytes]:
    """GENESIS, then decisions, an INTENT and its RESULT in turn; the same ones each time."""
    opening = Log(log.agent).fill(1)
    yield opening.leaves[0]
    prev = leaf_hash(opening.leaves[0]) if opening.leaves else NO_PREV
    for seq in range(1, count):
        first = seq - (seq + 1) % 2
        body: dict[str, JsonValue] = {
            "decision": f"{first:032x}",
            "model": {"name": f"m{first % 7}"},
        }
        kind = LeafType.INTENT if seq % 2 else LeafType.RESULT
        if kind is LeafType.RESULT:
            body |= {"intent": str(first), "outcome": "answered"}
        at = START * 10**9 + seq * 10**6
        data = encode_leaf(Leaf(log.origin, 1, seq, prev, kind, at, body))
        prev = leaf_hash(data)
        yield data


def write(path: Path, count: int) -> None:
    """The bundle: one agent's log of `count` records, and the operators'."""
    log = Log("edge-1")
    frontier = Frontier()
    for data in leaves(log, count):
        frontier.append(leaf_hash(data))
    head = Checkpoint(log.origin, count, frontier.root())
    line = cosign(head.text(), witness_key(), START + count)
    note = add_signature(sign_checkpoint(head, log.key), line)
    spec = LogSpec(
        agent=log.agent,
        epoch=1,
        origin=log.origin,
        vkey=log.vkey,
        checkpoint=note,
        hashes=(leaf_hash(data) for data in leaves(log, count)),
        first=0,
        end=count,
        uploaded=count,
        records=enumerate(leaves(log, count)),
        recorded=recorded(log, note),
    )
    with path.open("wb") as out:
        write_bundle(out, replace(bundle_of([spec, spec_of(Log("").fill(3))]), page=True))
