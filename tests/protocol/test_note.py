"""Signed notes, checkpoints and cosignatures: published vectors and strict reading."""

from __future__ import annotations

from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.checkpoint import (
    Checkpoint,
    CosignerKey,
    cosign,
    log_origin,
    open_checkpoint,
    operator_origin,
    sign_checkpoint,
    verify_cosignature,
)
from exclave_protocol.errors import CheckpointError, NoteError
from exclave_protocol.note import (
    COSIGNATURE,
    MAX_NOTE,
    MAX_SIGNATURES,
    SigningKey,
    VerifyKey,
    add_signature,
    open_note,
    sign,
    split_note,
)
from exclave_testing.bundles import private_key

# The example of golang.org/x/mod/sumdb/note, which C2SP signed-note was written down from.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (
    f"{GO_TEXT}\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZIn"
    "NIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
GO_SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
# The example of C2SP tlog-cosignature.
C2SP_NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5"
    "/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
    "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()

KEY = SigningKey("exclave.test/acme/edge-1/e1", private_key("log"))
WITNESS = CosignerKey("exclave.test/witness", private_key("witness"))
CHECKPOINT = Checkpoint(KEY.name, 7, bytes(range(32)))


def test_gos_example_is_reproduced_to_the_byte() -> None:
    key = SigningKey("PeterNeumann", Ed25519PrivateKey.from_private_bytes(GO_SEED))
    assert key.vkey == GO_VKEY
    assert sign(GO_TEXT, [key]) == GO_NOTE
    opened = open_note(GO_NOTE, [VerifyKey.parse(GO_VKEY)])
    assert (opened.text, len(opened.verified), opened.unverified) == (GO_TEXT, 1, ())
    assert VerifyKey.parse(GO_SUMDB).vkey == GO_SUMDB


def test_c2sps_example_is_read() -> None:
    text, (log, witness) = split_note(C2SP_NOTE)
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert (log.name, len(log.data)) == ("example.com/behind-the-sofa", 64)
    assert witness.name == "witness.example.com/w1"
    assert int.from_bytes(witness.data[:8], "big") == 1679315147
    rebuilt = text.encode() + b"\n" + log.line() + witness.line()
    assert rebuilt == C2SP_NOTE


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a3+",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter\u3000Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter\u202eNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_malformed_keys_are_refused(vkey: str) -> None:
    with pytest.raises(NoteError):
        VerifyKey.parse(vkey)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        GO_NOTE[:-1],
        GO_NOTE + b"\n",
        GO_NOTE + b"trailing\n",
        GO_NOTE.replace(b"\n\n", b"\n"),
        GO_NOTE.replace("\u2014".encode(), b"-"),
        GO_NOTE.replace(b"problem,", b"problem\t"),
        GO_NOTE.replace(b"problem,", b"problem\xff"),
        GO_NOTE.replace(b"nAM=", b"nAN="),
        GO_NOTE.replace(b"nAM=", b"nAM"),
        GO_NOTE + GO_NOTE[len(GO_TEXT) + 1 :],
        b"x" * MAX_NOTE + GO_NOTE,
        GO_TEXT.encode() + b"\n" + "\u2014 a eA==\n".encode(),
    ],
)
def test_malformed_notes_are_refused(note: bytes) -> None:
    with pytest.raises(NoteError):
        open_note(note, [VerifyKey.parse(GO_VKEY)])


def test_a_failing_signature_by_a_known_key_refuses_the_note() -> None:
    altered = GO_NOTE.replace(b"answer", b"ANSWER")
    with pytest.raises(NoteError, match="does not verify"):
        open_note(altered, [VerifyKey.parse(GO_VKEY)])


def test_unknown_keys_do_not_count() -> None:
    with pytest.raises(NoteError, match="not signed by any known key"):
        open_note(GO_NOTE, [KEY.verify_key])
    same_name = SigningKey("PeterNeumann", private_key("impostor")).verify_key
    with pytest.raises(NoteError, match="not signed by any known key"):
        open_note(GO_NOTE, [same_name])


def test_text_that_cannot_be_a_note_is_not_signed() -> None:
    for text in ("", "\n", "no newline", "tab\there\n", "\ud800\n"):
        with pytest.raises(NoteError):
            sign(text, [KEY])


def test_many_signatures_up_to_the_limit() -> None:
    keys = [SigningKey(f"k{n}", private_key(f"k{n}")) for n in range(MAX_SIGNATURES + 1)]
    note = sign("text\n", keys[:-1])
    assert len(open_note(note, [key.verify_key for key in keys]).verified) == MAX_SIGNATURES
    with pytest.raises(NoteError, match="more than"):
        open_note(sign("text\n", keys), [keys[0].verify_key])


def test_a_private_key_is_never_printed() -> None:
    assert "Private" not in repr(KEY)
    assert "Private" not in repr(WITNESS)


def test_checkpoint_round_trip() -> None:
    note = sign_checkpoint(CHECKPOINT, KEY)
    assert open_checkpoint(note, KEY.verify_key) == CHECKPOINT
    assert note.startswith(
        b"exclave.test/acme/edge-1/e1\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n7\n",
        CHECKPOINT.text() + "extension\n",
        CHECKPOINT.text().rstrip("\n"),
        CHECKPOINT.text().replace("\n7\n", "\n07\n"),
        CHECKPOINT.text().replace("\n7\n", "\n-7\n"),
        CHECKPOINT.text().replace("\n7\n", "\n\u0667\n"),
        CHECKPOINT.text().replace("\n7\n", f"\n{2**63}\n"),
        CHECKPOINT.text().replace("8=", "9="),
        CHECKPOINT.text().replace("Hh8=", "Hg=="),
        CHECKPOINT.text().replace("exclave", "ex clave"),
        CHECKPOINT.text().replace("exclave", "ex+clave"),
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.parse(text)


def test_a_checkpoint_belongs_to_its_key() -> None:
    other = SigningKey("exclave.test/acme/edge-2/e1", KEY.private)
    with pytest.raises(CheckpointError, match="origin"):
        sign_checkpoint(CHECKPOINT, other)
    foreign = sign(CHECKPOINT.text(), [other])
    with pytest.raises(CheckpointError, match="another log"):
        open_checkpoint(foreign, other.verify_key)


def test_cosignature_round_trip() -> None:
    line = cosign(CHECKPOINT.text(), WITNESS, 1679315147)
    key = VerifyKey.parse(WITNESS.vkey)
    assert key.kind == COSIGNATURE
    assert verify_cosignature(CHECKPOINT.text(), line, key) == 1679315147
    note = add_signature(sign_checkpoint(CHECKPOINT, KEY), line)
    opened = open_note(note, [KEY.verify_key, key])
    assert [signature.timestamp for signature in opened.verified] == [None, 1679315147]
    newer = add_signature(note, cosign(CHECKPOINT.text(), WITNESS, 1679315148))
    assert [s.timestamp for s in open_note(newer, [key]).verified] == [1679315148]
    assert len(split_note(newer)[1]) == 2


def test_a_cosignature_is_bound_to_text_time_key_and_type() -> None:
    text, line = CHECKPOINT.text(), cosign(CHECKPOINT.text(), WITNESS, 5)
    key = WITNESS.verify_key
    with pytest.raises(NoteError, match="does not verify"):
        verify_cosignature(text.replace("\n7\n", "\n8\n"), line, key)
    with pytest.raises(NoteError, match="not one line"):
        verify_cosignature(text, line, CosignerKey(WITNESS.name, private_key("x")).verify_key)
    with pytest.raises(NoteError, match="type 0x04"):
        verify_cosignature(text, line, VerifyKey(WITNESS.name, key.public))
    with pytest.raises(NoteError, match="not one line"):
        verify_cosignature(text, line + KEY.signature(text).line(), key)
    blob = bytearray(b64decode(line.split(b" ")[2]))
    for place, reason in ((11, "does not verify"), (4, "beyond"), (40, "does not verify")):
        bad = bytearray(blob)
        bad[place] ^= 0x80
        forged = line.rpartition(b" ")[0] + b" " + b64encode(bytes(bad)) + b"\n"
        with pytest.raises(NoteError, match=reason):
            verify_cosignature(text, forged, key)
    short = line.rpartition(b" ")[0] + b" " + b64encode(bytes(blob[:-1])) + b"\n"
    with pytest.raises(NoteError, match="not 72"):
        verify_cosignature(text, short, key)


def test_a_witness_signs_only_checkpoints_and_possible_times() -> None:
    with pytest.raises(CheckpointError):
        cosign("not a checkpoint\n", WITNESS, 5)
    with pytest.raises(CheckpointError, match="time"):
        cosign(CHECKPOINT.text(), WITNESS, -1)
    with pytest.raises(CheckpointError, match="time"):
        cosign(CHECKPOINT.text(), WITNESS, 2**63)


def test_no_tenant_can_be_named_like_the_operators_log() -> None:
    assert log_origin("d", "acme", "edge-1", 3) == "d/acme/edge-1/e3"
    assert operator_origin("d") == "d/_operators/coordinator/e1"


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_raise_only_note_errors(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([GO_NOTE, C2SP_NOTE, sign_checkpoint(CHECKPOINT, KEY)]))
    note = bytearray(source)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(note) - 1))
        note[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    keys = [VerifyKey.parse(GO_VKEY), KEY.verify_key]
    try:
        opened = open_note(bytes(note), keys)
        Checkpoint.parse(opened.text)
    except NoteError:
        return
    assert opened.text.encode() in (GO_TEXT.encode(), CHECKPOINT.text().encode())


@given(st.text(max_size=120))
@settings(max_examples=300, deadline=None)
def test_hostile_keys_raise_only_note_errors(vkey: str) -> None:
    with suppress(NoteError):
        assert VerifyKey.parse(vkey).vkey == vkey
