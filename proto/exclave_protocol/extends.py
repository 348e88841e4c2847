"""A log's newest head extends one that somebody kept: a file that shows it, and what it is worth.

The file is the body of a C2SP tlog-witness `add-checkpoint` request: any witness takes it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .checkpoint import Checkpoint, open_checkpoint
from .errors import EvidenceError, NoteError, ProofError
from .note import VerifyKey
from .proof import check_witnesses, cosigned
from .report import Findings, Report, Verdict
from .tree import Node, consistency_proof, verify_consistency
from .witness import MAX_BODY, AddCheckpoint


def make_extension(old_size: int, note: bytes, size: int, node: Node) -> AddCheckpoint:
    """That `note`, a head of `size` leaves, extends the tree of `old_size`. Raises: ProofError."""
    return AddCheckpoint(old_size, tuple(consistency_proof(old_size, size, node)), note)


def read_extension(path: Path) -> AddCheckpoint:
    """Read one from disk. Raises: OSError, EvidenceError."""
    with path.open("rb") as file:
        data = file.read(MAX_BODY + 1)
    try:
        return AddCheckpoint.parse(data)
    except NoteError as error:
        raise EvidenceError(error.message) from None


def verify_extension(
    made: AddCheckpoint, kept: bytes, log: VerifyKey | None, witnesses: Sequence[VerifyKey]
) -> Report:
    """What it shows to whoever kept the checkpoint `kept`, and brings these keys.

    DIVERGED when the log's key signed two trees of one size. Raises: NoteError as `verify_proof`.
    """
    check_witnesses(log, witnesses)
    found, old, new = Findings(), None, None
    if log is None:
        found.add(Verdict.UNANCHORED, "the log's key was not brought: nothing is verified")
    else:
        try:
            old, new = open_checkpoint(kept, log), open_checkpoint(made.note, log)
            _extends(made, old, new, found)
        except (NoteError, ProofError) as error:
            found.add(Verdict.INVALID, error.message)
    said = "" if old is None or new is None else f"from {old.size} to {new.size} leaves"
    first = found.step("1", "the log's newest head extends the one that was kept", said)
    seen = Findings()
    times = cosigned(made.note, witnesses, seen)
    if not times and not seen.count:
        seen.add(Verdict.UNANCHORED, "no witness whose key was brought has cosigned it")
    second = seen.step("2", "the newest head is cosigned", "\n".join(times))
    trust = [f"log key: {'pinned ' + log.vkey if log else 'none brought: nothing is verified'}"]
    trust += [f"witness key: pinned {key.vkey}" for key in witnesses] or ["witness key: none"]
    return Report((first, second), tuple(trust))


def _extends(made: AddCheckpoint, old: Checkpoint, new: Checkpoint, found: Findings) -> None:
    """Raises: ProofError."""
    if old.size == new.size and old.root != new.root:
        found.add(Verdict.DIVERGED, f"the log's key signed two trees of {old.size} leaves")
    elif new.size < old.size:
        found.add(
            Verdict.INCOMPLETE, f"the head has {new.size} leaves, the kept one {old.size} already"
        )
    elif made.old_size != old.size:
        raise ProofError(f"the proof is from {made.old_size} leaves, not from {old.size}")
    else:
        verify_consistency(old.size, old.root, new.size, new.root, made.proof)
