"""What a log and its witness say to each other (C2SP tlog-witness), and what that leaves behind."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from .canonical import JsonValue
from .checkpoint import Checkpoint
from .errors import NoteError, ProofError
from .note import MAX_NOTE, unbase64
from .tree import HASH_SIZE, MAX_SIZE, Frontier, Node, consistency_proof

PATH = "/add-checkpoint"
"""Below a witness's submission prefix."""
SIZE_TYPE = "text/x.tlog.size"
"""Content type of the answer that names the size which the witness cosigned last."""
MAX_PROOF = 63
"""Hashes of one consistency proof."""
MAX_BODY = len("old \n\n") + 19 + MAX_PROOF * 45 + MAX_NOTE
"""Bytes of the longest request that can be well-formed."""

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """One request: cosign `note`, which extends the tree of `old_size` that you cosigned."""

    old_size: int
    proof: tuple[bytes, ...]
    """RFC 6962 consistency proof from `old_size`, 32 bytes each."""
    note: bytes
    """The checkpoint, signed by its log; nothing in it was verified."""

    def encode(self) -> bytes:
        """The body of the request."""
        lines = "".join(f"{b64encode(item).decode()}\n" for item in self.proof)
        return f"old {self.old_size}\n{lines}\n".encode() + self.note

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a body. Raises: NoteError; never anything else, whatever the bytes."""
        if len(body) > MAX_BODY:
            raise NoteError(f"request: {len(body)} bytes, the limit is {MAX_BODY}")
        head, blank, note = body.partition(b"\n\n")
        if not blank:
            raise NoteError("request: no empty line before the checkpoint")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise NoteError("request: the lines before the checkpoint are not ASCII") from None
        match = _OLD.fullmatch(first)
        if match is None or int(match[1]) > MAX_SIZE:
            raise NoteError("request: its first line is not `old` and a size")
        if len(lines) > MAX_PROOF:
            raise NoteError(f"request: more than {MAX_PROOF} hashes of proof")
        proof = tuple(unbase64(line, "consistency proof") for line in lines)
        if any(len(item) != HASH_SIZE for item in proof):
            raise NoteError(f"consistency proof: a hash is not {HASH_SIZE} bytes")
        return cls(int(match[1]), proof, note)


def encode_size(size: int) -> bytes:
    """The body that names the size cosigned last."""
    return b"%d\n" % size


def parse_size(body: bytes) -> int:
    """The inverse of `encode_size`. Raises: NoteError."""
    match = _SIZE.fullmatch(body)
    if match is None or int(match[1]) > MAX_SIZE:
        raise NoteError("size: not one decimal without leading zeroes and a newline")
    return int(match[1])


def cosigned_body(checkpoint: Checkpoint, cosigned_at: int) -> dict[str, JsonValue]:
    """The body of a COSIGNED leaf: what the cosignature says, in fields of its own.

    `cosigned_at`: the cosignature's timestamp, seconds since the epoch.
    """
    return {
        "origin": checkpoint.origin,
        "size": str(checkpoint.size),
        "root": checkpoint.root.hex(),
        "cosigned_at": str(cosigned_at),
    }


def proof_between(old: Frontier, new: int, added: Sequence[bytes]) -> list[bytes]:
    """Consistency proof from a tree kept as its peaks to one with `added` leaf hashes more.

    All that lies left of the old size in such a proof are the old tree's own peaks, so that
    neither its leaves nor its inner nodes are needed. Raises: ProofError.
    """
    size, begin = old.size, 0
    if size + len(added) != new:
        raise ProofError(f"{len(added)} leaves do not lead from size {size} to size {new}")
    peaks: dict[tuple[int, int], bytes] = {}
    for level, peak in zip(_levels(size), old.peaks, strict=True):
        peaks[level, begin >> level] = peak
        begin += 1 << level

    def node(level: int, index: int) -> bytes:
        first = index << level
        if first < size:
            return peaks[level, index]
        part = Frontier()
        part.extend(added[first - size : first - size + (1 << level)])
        return part.root()

    whole: Node = node
    return consistency_proof(size, new, whole)


def _levels(size: int) -> list[int]:
    return [bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]
