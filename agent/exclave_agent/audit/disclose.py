"""Shows a record with its private values to those who may see them, and opens single fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import Appended, AuditLog
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import Disclosure, parse
from exclave_protocol.errors import ProtocolError
from exclave_protocol.leaf import Leaf, decode_leaf
from exclave_protocol.opened import make_disclosure_file
from exclave_protocol.tree import leaf_hash

from . import drafts
from .store import LogReader


@dataclass(frozen=True, slots=True)
class Shown:
    """One record, opened."""

    leaf: Leaf
    hash: bytes
    """RFC 6962 leaf hash."""
    data: bytes
    """The exact bytes."""
    disclosures: Mapping[str, Disclosure]
    """By field name; every one belongs to a commitment of the leaf."""
    closed: tuple[str, ...]
    """Commitments without a value in the vault (erased, not kept, or decoys)."""

    @property
    def fields(self) -> dict[str, JsonValue]:
        """The private values."""
        return {name: item.value for name, item in self.disclosures.items()}


def find(reader: LogReader, reference: str) -> list[int]:
    """The seqs that a person means: a seq as a number, or a decision id (all its leaves).

    Raises: BadRequest when there is none; StorageError.
    """
    if reference.isascii() and reference.isdigit() and len(reference) < 19:
        seq = int(reference)
        if seq < reader.size():
            return [seq]
        raise BadRequest(f"the log has {reader.size()} records; that is beyond", param="record")
    found = reader.by_decision(reference)
    if not found:
        raise BadRequest("no record belongs to a decision of that id", param="record")
    return found


def show(reader: LogReader, seq: int) -> Shown:
    """Open one record, and hold every value against its commitment.

    Raises: BadRequest when there is no such record; StorageError ("log_altered",
    "vault_damaged").
    """
    stored = reader.leaf(seq)
    if stored is None:
        raise BadRequest("the log has no record of that number", param="record")
    if leaf_hash(stored.data) != stored.hash:
        raise StorageError(
            f"the log was altered on disk: leaf {seq} does not have its hash; run "
            "`exclave-agent audit verify`",
            code="log_altered",
        )
    try:
        leaf = decode_leaf(stored.data)
        opened = [parse(text) for text in reader.private(seq)]
    except ProtocolError as error:
        raise StorageError(
            f"record {seq} cannot be read: {error.message}", code="log_altered"
        ) from error
    known = {item.name: item for item in opened if item.digest in leaf.sd}
    if len(known) != len(opened):
        raise StorageError(
            f"the vault holds values that record {seq} did not commit to", code="vault_damaged"
        )
    held = {item.digest for item in opened}
    closed = tuple(digest for digest in leaf.sd if digest not in held)
    return Shown(leaf, stored.hash, stored.data, known, closed)


def disclose(reader: LogReader, seq: int, field: str) -> tuple[bytes, Disclosure]:
    """A file that proves one private field of one record, and nothing of its others.

    Raises: BadRequest (no such record or field), StorageError.
    """
    record = show(reader, seq)
    item = record.disclosures.get(field)
    if item is None:
        names = ", ".join(sorted(record.disclosures)) or "none"
        raise BadRequest(
            f"record {seq} has no private field of that name to disclose; it has: {names}",
            param="field",
        )
    return make_disclosure_file(record.data, [item.encoded]), item


async def record_disclosure(log: AuditLog, seq: int, item: Disclosure) -> Appended:
    """Record that a field was disclosed; do it before the file leaves your hands.

    Raises: StorageFull, StorageError.
    """
    return await log.append(drafts.disclosure(seq=seq, digest=item.digest))
