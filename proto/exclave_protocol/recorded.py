"""Whether a cosignature is on record: the witness's log has a leaf for each one that it gave."""

from __future__ import annotations

from .checkpoint import Checkpoint, cosigned_origin, open_checkpoint
from .errors import EvidenceError, LeafError, NoteError, ProofError
from .leaf import LeafType, decode_leaf
from .note import VerifyKey
from .proof import Proof
from .tree import leaf_hash, verify_inclusion
from .witness import cosigned_body


def recorder(domain: str, operators: VerifyKey) -> VerifyKey:
    """The key of the witness's log: that of the operators' log, under the log's own name."""
    return VerifyKey(cosigned_origin(domain), operators.public)


def check_recorded(data: bytes, head: Checkpoint, cosigned_at: int, key: VerifyKey) -> None:
    """Hold a proof file to the cosignature over `head` that is dated `cosigned_at`.

    Raises: EvidenceError.
    """
    proof = Proof.parse(data)
    try:
        leaf = decode_leaf(proof.leaf)
        checkpoint = open_checkpoint(proof.checkpoint, key)
        digest = leaf_hash(proof.leaf)
        verify_inclusion(digest, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    except (LeafError, NoteError, ProofError) as error:
        raise EvidenceError(str(error)) from None
    if leaf.log != checkpoint.origin or leaf.seq != proof.index:
        raise EvidenceError("the leaf is of another log or place than its proof")
    if leaf.type is not LeafType.COSIGNED or leaf.body != cosigned_body(head, cosigned_at):
        raise EvidenceError("the leaf records another cosignature")
