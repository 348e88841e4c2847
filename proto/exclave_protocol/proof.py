"""A record's proof: leaf, inclusion and checkpoint in one file that stands by itself (C2SP
tlog-proof), and what it is worth to an auditor who brings the keys."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, open_checkpoint
from .errors import EvidenceError, LeafError, NoteError, ProofError
from .leaf import MAX_LEAF, MAX_SEQ, Leaf, decode_leaf
from .note import COSIGNATURE, MAX_NOTE, VerifyKey, split_note, unbase64
from .report import Findings, Report, Verdict
from .tree import HASH_SIZE, Node, inclusion_proof, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
MAX_FILE = 64 + MAX_LEAF * 2 + MAX_HASHES * 45 + MAX_NOTE
"""Bytes of the longest proof that can be well-formed."""
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it stands in its file; nothing in it was verified."""

    leaf: bytes
    """Exact bytes: the file's `extra` data, from which the record's hash is made."""
    index: int
    hashes: tuple[bytes, ...]
    """RFC 6962 inclusion proof, the leaf's sibling first."""
    checkpoint: bytes
    """A signed note, with whatever cosignatures there are."""

    def encode(self) -> bytes:
        """The file."""
        lines = [
            HEADER,
            f"extra {b64encode(self.leaf).decode()}",
            f"index {self.index}",
            *(b64encode(each).decode() for each in self.hashes),
        ]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Read a file. Raises: EvidenceError; never anything else, whatever the bytes."""
        if len(data) > MAX_FILE:
            raise EvidenceError(f"proof: longer than {MAX_FILE} bytes")
        head, blank, note = data.partition(b"\n\n")
        try:
            first, extra, index, *hashes = head.decode("ascii").split("\n")
            match = _INDEX.fullmatch(index)
            if not blank or first != HEADER or not extra.startswith("extra ") or match is None:
                raise ValueError
            if len(hashes) > MAX_HASHES or int(match[1]) > MAX_SEQ:
                raise ValueError
            leaf = unbase64(extra.removeprefix("extra "), "proof: extra")
            proof = tuple(unbase64(each, "proof: hash") for each in hashes)
        except NoteError as error:
            raise EvidenceError(error.message) from None
        except ValueError:  # of decoding and unpacking too
            raise EvidenceError(
                f"proof: not {HEADER} with a record (extra), an index and hashes"
            ) from None
        if any(len(each) != HASH_SIZE for each in proof):
            raise EvidenceError(f"proof: a hash is not {HASH_SIZE} bytes")
        return cls(leaf, int(match[1]), proof, note)


def make_proof(leaf: bytes, seq: int, checkpoint: bytes, size: int, node: Node) -> Proof:
    """The proof of a record under a checkpoint of `size`. Raises: ProofError."""
    return Proof(leaf, seq, tuple(inclusion_proof(seq, size, node)), checkpoint)


def read_proof(path: Path) -> Proof:
    """Read a proof from disk. Raises: OSError, EvidenceError."""
    with path.open("rb") as file:
        return Proof.parse(file.read(MAX_FILE + 1))


def verify_proof(proof: Proof, log: VerifyKey | None, witnesses: Sequence[VerifyKey]) -> Report:
    """What a proof shows to whoever brings these keys; `log` None: nobody vouches for the log's.

    UNANCHORED unless a witness that was brought cosigned the checkpoint. Raises: NoteError when a
    witness's key is no cosigner's, or the log's own: a log cannot vouch for itself.
    """
    check_witnesses(log, witnesses)
    found = Findings()
    record, checkpoint = _record(proof, found), None
    if record is not None:
        checkpoint = _checkpoint(proof, record, log, found)
    inside = found.step("1", "the record is what its log's checkpoint says", _said(record, proof))
    seen = Findings()
    times = cosigned(proof.checkpoint, witnesses, seen)
    if not times and not seen.count:
        seen.add(Verdict.UNANCHORED, "no witness whose key was brought has cosigned it")
    under = "" if checkpoint is None else f" of {checkpoint.size} leaves"
    step = seen.step("2", f"the checkpoint{under} is cosigned", "\n".join(times))
    trust = [f"log key: {'pinned ' + log.vkey if log else 'none brought: nothing is verified'}"]
    trust += [f"witness key: pinned {key.vkey}" for key in witnesses] or ["witness key: none"]
    return Report((inside, step), tuple(trust))


def _record(proof: Proof, found: Findings) -> Leaf | None:
    try:
        record = decode_leaf(proof.leaf)
    except LeafError as error:
        found.add(Verdict.INVALID, f"record: {error}")
        return None
    if record.seq != proof.index:
        found.add(Verdict.INVALID, f"record: says that it is {record.seq}, not {proof.index}")
    return record


def _checkpoint(
    proof: Proof, record: Leaf, log: VerifyKey | None, found: Findings
) -> Checkpoint | None:
    if log is None:
        found.add(Verdict.UNANCHORED, f"the key of {record.log} was not brought")
        return None
    try:
        checkpoint = open_checkpoint(proof.checkpoint, log)
        if record.log != checkpoint.origin:
            raise ProofError("the record is of another log than the checkpoint")
        digest = leaf_hash(proof.leaf)
        verify_inclusion(digest, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    except (NoteError, ProofError) as error:
        found.add(Verdict.INVALID, error.message)
        return None
    return checkpoint


def check_witnesses(log: VerifyKey | None, witnesses: Sequence[VerifyKey]) -> None:
    """Raises: NoteError when a witness's key is no cosigner's, or the log's own."""
    for key in witnesses:
        if key.kind != COSIGNATURE:
            raise NoteError(f"key {key.name}: not a witness's (type 0x04)")
        if log is not None and key.public == log.public:
            raise NoteError(f"key {key.name}: the log's own key is no witness")


def cosigned(note: bytes, witnesses: Sequence[VerifyKey], found: Findings) -> list[str]:
    """By which of the witnesses, and when. One whose line does not hold is a forgery."""
    known = {(key.name, key.id): key for key in witnesses}
    times = []
    try:
        text, signatures = split_note(note)
        for each in signatures:
            if (key := known.get((each.name, each.key_id))) is not None:
                times.append(f"by {key.name} at {key.verify(text, each).timestamp}")
    except NoteError as error:
        found.add(Verdict.INVALID, error.message)
    return times


def _said(record: Leaf | None, proof: Proof) -> str:
    if record is None:
        return ""
    return f"{record.log} seq {record.seq}, {record.type}, hash {leaf_hash(proof.leaf).hex()}"
