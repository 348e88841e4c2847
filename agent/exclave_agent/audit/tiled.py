"""Tiled: the log as static files that any client of tiled logs reads; proofs of single records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from exclave_agent.disk import sync_folder
from exclave_agent.errors import BadRequest, StorageError
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.errors import ProtocolError
from exclave_protocol.extends import make_extension
from exclave_protocol.note import split_note
from exclave_protocol.proof import Proof, make_proof
from exclave_protocol.tiles import CHECKPOINT, Tile, TileTree, entry_bundles, hash_tiles
from exclave_protocol.tree import leaf_hash, root, verify_inclusion
from exclave_protocol.witness import AddCheckpoint

from .store import LogReader


@dataclass(frozen=True, slots=True)
class Tiled:
    """What was written."""

    size: int
    """Leaves under the checkpoint."""
    files: int
    cosigned: bool
    """Whether the checkpoint has the witness's line."""


def newest(reader: LogReader, *, cosigned: bool) -> tuple[Checkpoint, bytes]:
    """The newest signed head and its note. Raises: BadRequest when there is none yet."""
    found = reader.checkpoint(cosigned=cosigned)
    if found is None:
        what = "was cosigned by the witness" if cosigned else "was signed"
        raise BadRequest(f"no head of this log {what} yet: wait for the agent's next heartbeat")
    return Checkpoint.parse(split_note(found.note)[0]), found.note


def prove(reader: LogReader, seq: int) -> Proof:
    """A record's proof under the newest cosigned head, or the newest signed one where that does
    not reach it. Raises: BadRequest, StorageError ("log_altered")."""
    stored = reader.leaf(seq)
    if stored is None:
        raise BadRequest("the log has no record of that number", param="record")
    checkpoint, note = newest(reader, cosigned=False)
    known = reader.checkpoint(cosigned=True)
    if known is not None and known.size > seq:
        checkpoint, note = newest(reader, cosigned=True)
    if checkpoint.size <= seq:
        raise BadRequest(
            f"record {seq} is under no signed head yet ({checkpoint.size} leaves): wait for the "
            "agent's next heartbeat",
            param="record",
        )
    try:
        made = make_proof(stored.data, seq, note, checkpoint.size, reader.node)
        digest = leaf_hash(stored.data)
        verify_inclusion(digest, seq, checkpoint.size, made.hashes, checkpoint.root)
        return made
    except ProtocolError as error:
        raise StorageError(f"no proof can be made: {error}", code="log_altered") from error


def extend(reader: LogReader, kept: bytes) -> AddCheckpoint:
    """That this log's newest cosigned head, else its newest signed one, extends a checkpoint that
    somebody kept. Raises: BadRequest (not of this log, or it does not extend it), StorageError."""
    try:
        old = Checkpoint.parse(split_note(kept)[0])
    except ProtocolError as error:
        raise BadRequest(f"checkpoint: {error.message}", param="since") from None
    checkpoint, note = newest(reader, cosigned=False)
    known = reader.checkpoint(cosigned=True)
    if known is not None and known.size >= old.size:
        checkpoint, note = newest(reader, cosigned=True)
    if old.origin != checkpoint.origin:
        raise BadRequest(
            f"the checkpoint is of another log than {checkpoint.origin}: --epoch names a former "
            "one",
            param="since",
        )
    if old.size > checkpoint.size:
        raise BadRequest(
            f"the checkpoint has {old.size} leaves, this log's newest head {checkpoint.size}: this "
            "home was put back to an earlier state, or the checkpoint is a forgery",
            param="since",
        )
    try:
        if root(old.size, reader.node) != old.root:
            raise BadRequest(
                f"the first {old.size} leaves of this log have another root than the checkpoint: "
                "one of the two is a forgery",
                param="since",
            )
        return make_extension(old.size, note, checkpoint.size, reader.node)
    except ProtocolError as error:
        raise StorageError(f"no proof can be made: {error}", code="log_altered") from error


def write_tiles(reader: LogReader, folder: Path, *, cosigned: bool, entries: bool) -> Tiled:
    """Write the log up to its newest head, whole or not at all; memory does not grow with it.

    What is written is read again from the files, under the signed root, before it gets its name.
    Raises: BadRequest (the folder is there, no head), StorageError ("log_altered"), OSError.
    """
    if folder.exists():
        raise BadRequest(f"{folder} exists: name another folder")
    checkpoint, note = newest(reader, cosigned=cosigned)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A name of its own: what stands beside the folder already is somebody else's.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = _write(draft, hash_tiles(_leaves(reader, checkpoint.size, lambda s: s[0])))
        if entries:
            files += _write(draft, entry_bundles(_leaves(reader, checkpoint.size, lambda s: s[1])))
        _put(draft / CHECKPOINT, note)
        _check(draft, checkpoint)
        for place, _, _ in os.walk(draft):
            sync_folder(Path(place))
        draft.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Tiled(checkpoint.size, files + 1, cosigned)


def _leaves(
    reader: LogReader, size: int, part: Callable[[tuple[bytes, bytes]], bytes]
) -> Iterator[bytes]:
    """The first `size` leaves, each held against its place and its hash."""
    seq = 0
    for stored in islice(reader.scan(0), size):
        if stored.seq != seq or leaf_hash(stored.data) != stored.hash:
            break
        yield part((stored.hash, stored.data))
        seq += 1
    if seq != size:
        raise StorageError(
            f"the log was altered on disk: leaf {seq} is missing, or does not have its hash; run "
            "`exclave-agent audit verify`",
            code="log_altered",
        )


def _write(folder: Path, tiles: Iterable[tuple[Tile, bytes]]) -> int:
    count = 0
    for tile, data in tiles:
        _put(folder / tile.path, data)
        count += 1
    return count


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check(folder: Path, checkpoint: Checkpoint) -> None:
    """The hashes on disk may not be those that were signed: then nothing is handed out."""
    try:
        tree = TileTree(
            checkpoint.size, checkpoint.root, lambda tile: (folder / tile.path).read_bytes()
        )
        for index in range(0, checkpoint.size, 256):
            tree.node(0, index)
    except ProtocolError as error:
        raise StorageError(
            f"the log on disk is not the one that was signed ({error}); run `exclave-agent audit "
            "verify`",
            code="log_altered",
        ) from error
