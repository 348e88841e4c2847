"""Proves that the log on this disk is the one we wrote: hashes, chain, tree, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_agent.errors import StorageError
from exclave_protocol.checkpoint import Checkpoint, open_checkpoint
from exclave_protocol.errors import ProofError, ProtocolError
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, check_follows, decode_leaf
from exclave_protocol.note import VerifyKey
from exclave_protocol.tree import Frontier, leaf_hash, peaks, root

from .store import LogReader, StoredLeaf

BOOT_SCAN = 1 << 18
"""Newest leaves that a boot reads again (about a second's work); `verify_log` reads all."""
_TILE = 0xFF


@dataclass(frozen=True, slots=True)
class LogState:
    """A verified log: enough to go on appending."""

    size: int
    peaks: tuple[bytes, ...]
    prev: bytes
    """Hash of the last leaf."""
    root: bytes
    open_intents: dict[str, int]
    """Decision id -> seq of each INTENT without a RESULT."""
    checkpoint: Checkpoint | None
    """The newest head that we signed; the log extends it."""


def verify_log(
    reader: LogReader, *, origin: str, epoch: int, key: VerifyKey, values: bool = True
) -> LogState:
    """Read the whole log and check every leaf's format, hash, place and predecessor, every
    stored tree node, that the tree extends our newest signed checkpoint, and that no more values
    are gone than erasures account for (`values`: not of a former epoch, whose values later ones
    may have erased).

    Raises: StorageError: "log_altered" (names the seq), "log_truncated",
    "checkpoint_invalid", "values_missing", "vault_damaged".
    """
    state = _scan(reader, origin=origin, epoch=epoch, key=key, first=0, decode_from=0)
    _check_nodes(reader, state)
    if values:
        _check_values(reader)
    return state


def verify_tail(reader: LogReader, *, origin: str, epoch: int, key: VerifyKey) -> LogState:
    """What a boot checks: the newest `BOOT_SCAN` leaves against their hashes, those beyond
    the newest checkpoint in full, and the tree as a whole against that checkpoint.

    Raises: as `verify_log`.
    """
    checkpoint = _own_checkpoint(reader, key)
    quiet = reader.quiet_before()
    first = max(0, reader.size() - BOOT_SCAN) & ~_TILE
    first = min(first, quiet & ~_TILE)
    signed = checkpoint.size if checkpoint is not None else 0
    return _scan(
        reader, origin=origin, epoch=epoch, key=key, first=first, decode_from=min(signed, quiet)
    )


def _own_checkpoint(reader: LogReader, key: VerifyKey) -> Checkpoint | None:
    stored = reader.checkpoint(cosigned=False)
    if stored is None:
        return None
    try:
        checkpoint = open_checkpoint(stored.note, key)
    except ProtocolError as error:
        raise StorageError(
            f"the newest checkpoint was not signed by this agent ({error.message}): restore "
            "the home, database and keys together",
            code="checkpoint_invalid",
        ) from error
    if checkpoint.size != stored.size:
        raise StorageError(
            "the newest checkpoint is stored under another size than it signs",
            code="checkpoint_invalid",
        )
    return checkpoint


def _altered(seq: int, why: str) -> StorageError:
    return StorageError(
        f"the log was altered on disk: leaf {seq} {why}; the agent records nothing more until "
        "the home is restored or a new epoch is opened",
        code="log_altered",
    )


def _scan(
    reader: LogReader, *, origin: str, epoch: int, key: VerifyKey, first: int, decode_from: int
) -> LogState:
    checkpoint = _own_checkpoint(reader, key)
    signed = checkpoint.size if checkpoint is not None else -1
    if reader.size() < signed:
        raise StorageError(
            f"the log was truncated: {reader.size()} leaves where {signed} were signed",
            code="log_truncated",
        )
    frontier = _frontier_at(reader, first)
    stored = reader.leaf(first - 1) if first else None
    prev = stored.hash if stored is not None else NO_PREV
    roots = {frontier.size: frontier.root()}
    open_intents: dict[str, int] = {}
    for stored in reader.scan(first):
        seq = frontier.size
        leaf = _check(stored, seq, decode=seq >= decode_from)
        if leaf is not None:
            try:
                check_follows(leaf, log=origin, epoch=epoch, seq=seq, prev=prev)
            except ProtocolError as error:
                raise _altered(seq, f"breaks the chain ({error.message})") from error
            _track(open_intents, leaf)
        prev = stored.hash
        frontier.append(prev)
        if frontier.size == signed:
            roots[signed] = frontier.root()
    if frontier.size != reader.size():
        raise _altered(frontier.size, "is missing")
    if checkpoint is not None:
        _check_signed(reader, checkpoint, roots.get(signed))
    return LogState(frontier.size, frontier.peaks, prev, frontier.root(), open_intents, checkpoint)


def _check(stored: StoredLeaf, seq: int, *, decode: bool) -> Leaf | None:
    if stored.seq != seq:
        raise _altered(seq, "is missing")
    if leaf_hash(stored.data) != stored.hash:
        raise _altered(seq, "does not have its hash")
    if not decode:
        return None
    try:
        return decode_leaf(stored.data)
    except ProtocolError as error:
        raise _altered(seq, f"is malformed ({error.message})") from error


def _track(open_intents: dict[str, int], leaf: Leaf) -> None:
    decision = str(leaf.body.get("decision"))
    if leaf.type is LeafType.INTENT:
        open_intents[decision] = leaf.seq
    elif leaf.type is LeafType.RESULT:
        open_intents.pop(decision, None)


def _frontier_at(reader: LogReader, size: int) -> Frontier:
    """The peaks at `size`, a multiple of a tile, from stored nodes."""
    try:
        found = peaks(size, reader.node)
    except ProofError as error:
        raise _altered(max(size - 1, 0), f"has no tree above it ({error.message})") from error
    return Frontier.from_peaks(size, found)


def _check_signed(reader: LogReader, checkpoint: Checkpoint, scanned: bytes | None) -> None:
    try:
        found = scanned if scanned is not None else root(checkpoint.size, reader.node)
    except ProofError as error:
        raise _altered(checkpoint.size - 1, f"has no tree above it ({error.message})") from error
    if found != checkpoint.root:
        raise StorageError(
            f"the log was altered on disk: its first {checkpoint.size} leaves are not those "
            "that this agent signed",
            code="log_altered",
        )


def _check_values(reader: LogReader) -> None:
    """Whoever deletes a key of the vault by hand leaves no ERASURE."""
    gone = erased = 0
    for stored in reader.scan(0):
        leaf = decode_leaf(stored.data)
        gone += bool(leaf.sd) and not reader.private(stored.seq)
        if leaf.type is LeafType.ERASURE and "log" not in leaf.body:
            erased += int(str(leaf.body.get("leaves", "0")))
    if gone > erased:
        raise StorageError(
            f"the values of {gone} records are gone, and the record accounts for {erased}: keys "
            "or values were deleted by hand (or an erasure was cut off: start the agent, which "
            "finishes it)",
            code="values_missing",
        )


def _check_nodes(reader: LogReader, state: LogState) -> None:
    """Stored nodes serve proofs: they must give the same root as the leaves themselves."""
    try:
        found = root(state.size, reader.node)
    except ProofError as error:
        raise StorageError(
            f"the log's stored tree has a hole: {error.message}", code="log_altered"
        ) from error
    if found != state.root:
        raise StorageError(
            "the log's stored tree does not belong to its leaves", code="log_altered"
        )
