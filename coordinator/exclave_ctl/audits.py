"""Pulling evidence: the bundle to a file, whole or not at all; the coordinator's own logs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exclave_ctl import files
from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.errors import NoteError
from exclave_protocol.leaf import Leaf, decode_leaf
from exclave_protocol.note import VerifyKey, open_note
from exclave_protocol.tree import leaf_hash

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb

PAGE = 1000
AHEAD_SECONDS = 300
"""How far an agent's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A bundle on disk."""

    path: Path
    sha256: str
    length: int


def save(chunks: Iterable[bytes], path: Path, moved: Callable[[int], None]) -> Pulled:
    """Stream to `<path>.part`, fsync, rename: `path` is a whole bundle or does not exist.

    Raises: CtlError (the stream broke or was empty), OSError (disk).
    """
    part = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    length = 0
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                length += len(chunk)
                moved(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if length == 0:
            raise CtlError("the coordinator sent an empty bundle", "see its log")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    files.sync_folder(path.parent)
    return Pulled(path, digest.hexdigest(), length)


def check_chain(leaves: Sequence[bytes]) -> list[Leaf]:
    """The decoded leaves, if each follows the one before by number and by hash.

    Raises: CtlError (a gap, or a leaf that was changed), LeafError.
    """
    decoded = [decode_leaf(leaf) for leaf in leaves]
    for before, leaf, after in zip(decoded, leaves, decoded[1:], strict=False):
        if after.seq != before.seq + 1 or after.prev != leaf_hash(leaf):
            raise CtlError(
                f"the log is broken between records {before.seq} and {after.seq}",
                "a record was changed or removed: keep this output, and compare with older ones",
            )
    return decoded


def own_log(client: Client, name: str, first: int, limit: int) -> Iterator[bytes]:
    """Up to `limit` leaves of an own log from `first`, page by page.

    Raises: CtlError; one is that it has fewer leaves than its head says.
    """
    while limit > 0:
        page = client.own_log(name, first, min(limit, PAGE))
        yield from page.leaves
        first += len(page.leaves)
        limit -= len(page.leaves)
        if first >= page.size:
            return
        if not page.leaves:
            raise CtlError(
                f"the log ends at record {first} where its head says {page.size}",
                "records were removed: keep this output, and compare with older ones",
            )


def check_witnesses(answer: pb.ListWitnessesResponse) -> None:
    """Refuse a checkpoint that is not signed as the coordinator says. Raises: CtlError."""
    for own in answer.own:
        if own.checkpoint:
            _check_note(own.origin, own.checkpoint, [own.vkey])
        for cosignature in own.cosignatures:
            if cosignature.note:
                keys = [own.vkey, cosignature.witness_vkey]
                _check_note(own.origin, cosignature.note, keys)


def _check_note(origin: str, note: bytes, vkeys: Sequence[str]) -> None:
    try:
        keys = [VerifyKey.parse(vkey) for vkey in vkeys]
        opened = open_note(note, keys)
        signed = len(opened.verified) == len(keys)
        if not signed or Checkpoint.parse(opened.text).origin != origin:
            raise NoteError("a signature is missing, or it is another log's")
    except NoteError as error:
        raise CtlError(
            f"the checkpoint of {origin} does not verify: {error.message}",
            "keep this output and ask whoever runs the coordinator: nothing of it can be trusted",
        ) from error


def anomalies(log: pb.AgentLog, now: int, silence: int) -> list[str]:
    """What is odd about one log, in words. `silence`: seconds without a leaf from an active agent;
    every agent writes a heartbeat."""
    from exclave_protocol.pb import admin_pb2

    found = []
    if log.contradictions:
        found.append(f"{log.contradictions} contradictions are kept as evidence")
    if not log.epoch:
        return [*found, "connected, and has sent no leaf"] if log.last_seen else found
    if log.size > log.witnessed_size and now - max(log.witnessed_at, log.last_leaf) > silence:
        found.append(f"{log.size - log.witnessed_size} leaves wait for a cosignature")
    if log.last_leaf > now + AHEAD_SECONDS:
        found.append("the agent's clock runs ahead")
    if log.state == admin_pb2.Agent.State.ACTIVE and now - log.last_leaf > silence:
        found.append("silent")
    return found
