"""A record's proof stands by itself, in others' format; whatever was changed in it is found."""

from __future__ import annotations

import random
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.__main__ import main
from exclave_protocol.checkpoint import Checkpoint, cosign, sign_checkpoint
from exclave_protocol.errors import EvidenceError, NoteError
from exclave_protocol.note import COSIGNATURE, VerifyKey, add_signature
from exclave_protocol.proof import Proof, make_proof, verify_proof
from exclave_protocol.report import Verdict
from exclave_protocol.tree import MemoryTree, leaf_hash
from exclave_testing.attacks import attack
from exclave_testing.bundles import Log, witness_key

LOG = Log("edge-1").fill(40)
WITNESS = witness_key()
TREE = MemoryTree(map(leaf_hash, LOG.leaves))
SIZE = len(LOG.leaves)


def note(*, cosigned: bool = True) -> bytes:
    head = Checkpoint(LOG.origin, SIZE, TREE.root())
    signed = sign_checkpoint(head, LOG.key)
    line = cosign(head.text(), WITNESS, 1_800_000_000)
    return add_signature(signed, line) if cosigned else signed


def proof(seq: int = 7, *, cosigned: bool = True) -> Proof:
    return make_proof(LOG.leaves[seq], seq, note(cosigned=cosigned), SIZE, TREE.node)


def judged(made: Proof, *witnesses: VerifyKey) -> Verdict:
    return verify_proof(made, LOG.key.verify_key, witnesses or (WITNESS.verify_key,)).verdict


def test_it_is_written_as_the_specification_has_it() -> None:
    made = proof()
    lines = made.encode().decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == f"extra {b64encode(LOG.leaves[7]).decode()}"
    assert lines[2] == "index 7"
    assert lines[3 : 3 + len(made.hashes)] == [b64encode(each).decode() for each in made.hashes]
    assert lines[3 + len(made.hashes)] == ""
    assert made.encode().endswith(b"\n\n" + note())
    assert Proof.parse(made.encode()) == made


@pytest.mark.parametrize("seq", range(0, SIZE, 5))
def test_every_record_is_proven(seq: int) -> None:
    assert judged(Proof.parse(proof(seq).encode())) is Verdict.WITNESSED


def test_a_log_cannot_be_its_own_witness() -> None:
    own = LOG.key.verify_key
    for key in (own, VerifyKey(WITNESS.name, own.public, COSIGNATURE)):
        with pytest.raises(NoteError, match="witness"):
            judged(proof(), key)


def test_without_its_witness_or_its_key_nobody_vouches_for_it() -> None:
    assert judged(proof(cosigned=False)) is Verdict.UNANCHORED
    other = witness_key("other").verify_key
    assert judged(proof(), other) is Verdict.UNANCHORED
    assert verify_proof(proof(), None, [WITNESS.verify_key]).verdict is Verdict.UNANCHORED


def test_a_forged_line_of_a_pinned_witness_is_no_mere_absence() -> None:
    body, _, line = proof().encode().rpartition(b"\xe2\x80\x94")
    place = len(line) - 12
    forged = line[:place] + (b"A" if line[place : place + 1] != b"A" else b"B") + line[place + 1 :]
    assert judged(Proof.parse(body + b"\xe2\x80\x94" + forged)) is Verdict.INVALID


def test_nothing_in_it_can_be_changed() -> None:
    """Every bit: it is refused, or says something else than that the record is witnessed."""
    whole = proof().encode()
    chance = random.Random(6)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        try:
            made = Proof.parse(bytes(data))
        except EvidenceError:
            continue
        assert judged(made) is not Verdict.WITNESSED, place


@attack("B52")
def test_another_records_place_another_log_another_tree() -> None:
    seven, eight = proof(7), proof(8)
    assert judged(Proof(seven.leaf, 8, eight.hashes, seven.checkpoint)) is Verdict.INVALID
    assert judged(Proof(seven.leaf, 7, eight.hashes, seven.checkpoint)) is Verdict.INVALID
    other = Log("edge-2").fill(40)
    assert judged(Proof(other.leaves[7], 7, seven.hashes, seven.checkpoint)) is Verdict.INVALID
    assert verify_proof(seven, other.key.verify_key, [WITNESS.verify_key]).verdict is (
        Verdict.INVALID
    )


WORDS = st.text(alphabet="index extra=c2sp.org/tlog-proof@v1\n07A", max_size=99).map(str.encode)


@settings(max_examples=400)
@given(st.binary(max_size=200) | WORDS)
def test_hostile_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for body in (data, proof().encode()[: len(data)] + data):
        try:
            made = Proof.parse(body)
        except EvidenceError:
            continue
        verify_proof(made, LOG.key.verify_key, [WITNESS.verify_key])


def test_too_long_is_not_read() -> None:
    with pytest.raises(EvidenceError, match="longer"):
        Proof.parse(proof().encode() + b"x" * 1_000_000)


# --- the command ---------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(str(end.code))
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "seven.tlog-proof"
    file.write_bytes(proof().encode())
    pins = ["--log-key", LOG.vkey, "--witness-key", WITNESS.vkey]
    code, said = run(capsys, "--proof", str(file), *pins)
    assert code == 0 and "seq 7" in said and "verdict: WITNESSED" in said
    assert run(capsys, "--proof", str(file))[0] == 4
    file.write_bytes(proof().encode().replace(b"index 7", b"index 8"))
    assert run(capsys, "--proof", str(file), *pins)[0] == 1
    file.write_bytes(b"nonsense")
    code, said = run(capsys, "--proof", str(file), *pins)
    assert code == 1 and "tlog-proof" in said
    assert run(capsys, "--proof", str(tmp_path / "absent"), *pins)[0] == 2
    assert run(capsys, "--proof", str(file), "bundle.zip")[0] == 2
    assert run(capsys)[0] == 2
