"""A log only grew since a checkpoint was made: the proof as a file, and everything that is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave_protocol.__main__ import main
from exclave_protocol.checkpoint import Checkpoint, cosign, sign_checkpoint
from exclave_protocol.errors import EvidenceError, NoteError
from exclave_protocol.extends import make_extension, read_extension, verify_extension
from exclave_protocol.note import add_signature
from exclave_protocol.report import Verdict
from exclave_protocol.tree import MemoryTree
from exclave_protocol.witness import AddCheckpoint
from exclave_testing.attacks import attack
from exclave_testing.bundles import Log, witness_key

LOG = Log("edge-1").fill(40)
TREE = MemoryTree(LOG.hashes)
WITNESS = witness_key()
OLD = 17


def head(size: int, *, root: bytes = b"", cosigned: bool = False, log: Log = LOG) -> bytes:
    checkpoint = Checkpoint(log.origin, size, root or TREE.root(size))
    note = sign_checkpoint(checkpoint, log.key)
    line = cosign(checkpoint.text(), WITNESS, 1_800_000_000)
    return add_signature(note, line) if cosigned else note


def extension(old: int = OLD, *, cosigned: bool = True) -> AddCheckpoint:
    return make_extension(old, head(40, cosigned=cosigned), 40, TREE.node)


def verdict(made: AddCheckpoint, kept: bytes) -> Verdict:
    return verify_extension(made, kept, LOG.key.verify_key, [WITNESS.verify_key]).verdict


@pytest.mark.parametrize("size", range(1, 41, 3))
def test_it_holds_from_every_size(size: int, tmp_path: Path) -> None:
    file, kept = tmp_path / "extends", tmp_path / "kept"
    file.write_bytes(extension(size).encode())
    kept.write_bytes(head(size))
    assert verdict(read_extension(file), head(size)) is Verdict.WITNESSED
    words = ["--extends", str(file), "--checkpoint", str(kept), "--log-key", LOG.vkey]
    assert main([*words, "--witness-key", WITNESS.verify_key.vkey]) == 0
    assert main(words) == Verdict.UNANCHORED.exit_code


@attack("B73")
def test_what_is_no_extension_is_told_apart(tmp_path: Path) -> None:
    made, other = extension(), Log("edge-2").fill(40)
    cases = {
        Verdict.DIVERGED: [(replace(made, old_size=40, proof=()), head(40, root=bytes(32)))],
        Verdict.INCOMPLETE: [(replace(made, note=head(9, cosigned=True)), head(OLD))],
        Verdict.INVALID: [
            (made, head(OLD, root=bytes(32))),
            (made, head(OLD - 1)),
            (replace(made, proof=made.proof[:-1]), head(OLD)),
            (replace(made, proof=(bytes(32), *made.proof[1:])), head(OLD)),
            (replace(made, note=head(40, root=bytes(32), cosigned=True)), head(OLD)),
            (made, head(OLD, log=other, root=bytes(32))),
            (made, b"nothing"),
        ],
        Verdict.UNANCHORED: [(extension(cosigned=False), head(OLD))],
    }
    for wanted, pairs in cases.items():
        for pair in pairs:
            assert verdict(*pair) is wanted, pair
    assert verify_extension(made, head(OLD), None, []).verdict is Verdict.UNANCHORED
    with pytest.raises(NoteError):
        verify_extension(made, head(OLD), LOG.plain, [LOG.plain])
    (tmp_path / "odd").write_bytes(b"old 1\n")
    with pytest.raises(EvidenceError):
        read_extension(tmp_path / "odd")


@pytest.mark.parametrize("words", [["--extends", "x"], ["b.zip", "--extends", "x"], []])
def test_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
