"""What `exclave_testing.decider` said, held against a home after the process, or the power, was
gone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from exclave_agent.audit.store import LogReader
from exclave_agent.audit.verify import verify_log
from exclave_agent.storage.home import read_log
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.disclosure import parse
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf
from exclave_protocol.note import split_note
from exclave_protocol.tree import root

from .audit import ORIGIN
from .homes import KEY


def kept(home: Path, said: Iterable[str]) -> int:
    """Every promise is kept, or an AssertionError says which is not; the leaves that there are.

    The log verifies; no answer without its RESULT and no piece of one without its INTENT; no
    RESULT without the INTENT that it names; every commitment has its value; every head that was
    cosigned is still known, and the log extends it.
    """
    verified = read_log(home, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))
    lines = [line.split() for line in said]
    read_log(home, lambda reader: _check(reader, lines))
    return verified.size


def _check(reader: LogReader, lines: list[list[str]]) -> None:
    intents: dict[str, int] = {}
    results: dict[str, tuple[int, Leaf]] = {}
    for stored in reader.scan(0):
        leaf = decode_leaf(stored.data)
        decision = str(leaf.body.get("decision"))
        values = {parse(text).digest for text in reader.private(stored.seq)}
        # The others are decoys; all of a leaf's values lie in one row, there or not at all.
        assert values <= set(leaf.sd) and bool(values) == bool(leaf.sd), (
            f"leaf {stored.seq} lacks values"
        )
        if leaf.type is LeafType.INTENT:
            assert decision not in intents, f"two INTENTs of {decision}"
            intents[decision] = stored.seq
        elif leaf.type is LeafType.RESULT:
            assert decision not in results, f"two RESULTs of {decision}"
            named = leaf.body.get("intent")
            assert named is None or named == str(intents[decision]), "RESULT without its INTENT"
            results[decision] = stored.seq, leaf
    for kind, what, *more in lines:
        if kind == "token":
            assert what in intents, f"a piece of {what} left without its INTENT"
        elif kind == "answer":
            assert what in results, f"the answer of {what} left without its RESULT"
            seq, leaf = results[what]
            assert (str(seq), leaf.body["outcome"]) == (more[0], "answered")
        elif kind == "denied":
            assert what in results, f"{what} was refused without its RESULT"
    _heads(reader, [(int(what), more[0]) for kind, what, *more in lines if kind == "cosigned"])


def _heads(reader: LogReader, heads: list[tuple[int, str]]) -> None:
    for size, digest in heads:
        assert root(size, reader.node).hex() == digest, f"the cosigned head of {size} is lost"
    if heads:
        newest = reader.checkpoint(cosigned=True)
        assert newest is not None and newest.size >= heads[-1][0], "a cosignature is lost"
        head = Checkpoint.parse(split_note(newest.note)[0])
        assert head.size == newest.size and head.root == root(head.size, reader.node)
