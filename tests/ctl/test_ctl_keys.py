"""People's signing keys: private files, passphrases, PEM public keys and signer URIs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exclave_ctl import keys
from exclave_ctl.errors import CtlError
from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import key_pem


def never() -> bytes:
    """A passphrase that must not be asked for."""
    raise AssertionError("asked for a passphrase")


def test_a_key_is_private_encrypted_and_not_overwritten(tmp_path: Path) -> None:
    secret, public, keyid = keys.generate("alice", tmp_path, b"correct horse")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in secret.read_bytes()
    assert keys.load_public(public).keyid == keyid
    signer = keys.load_signer(str(secret), None, lambda: b"correct horse")
    signature = signer.sign(b"data")
    keys.load_public(public).verify_signature(signature, b"data")
    with pytest.raises(CtlError, match="does not open"):
        keys.load_signer(str(secret), None, lambda: b"wrong")
    with pytest.raises(CtlError, match="not overwritten"):
        keys.generate("alice", tmp_path, None)
    public.unlink()
    before = secret.read_bytes()
    with pytest.raises(CtlError, match="not overwritten"):
        keys.generate("alice", tmp_path, None)
    assert secret.read_bytes() == before


def test_the_passphrase_comes_from_a_file(ctl: Ctl, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    ctl("key", "generate", "dora", "-o", tmp_path, "--passphrase-file", phrase)
    words = [word for n in ("dora",) for word in ("--key", tmp_path / f"{n}.pub")]
    workspace = tmp_path / "ws"
    ctl("tenant", "create", "acme", *words, "--threshold", 1, "-o", workspace)
    sign = ("release", "sign", workspace, "--key", tmp_path / "dora.key")
    assert "no terminal to ask on" in ctl(*sign, code=1).stderr
    assert "signed: root" in ctl(*sign, "--passphrase-file", phrase).stdout
    phrase.write_text("\n")
    empty = ctl("key", "generate", "emil", "-o", tmp_path, "--passphrase-file", phrase, code=1)
    assert "passphrase is empty" in empty.stderr
    assert not (tmp_path / "emil.key").exists()


def test_an_unencrypted_key_asks_for_nothing(tmp_path: Path) -> None:
    secret, _, keyid = keys.generate("alice", tmp_path, None)
    assert keys.load_signer(str(secret), None, never).public_key.keyid == keyid


def test_a_signer_uri_needs_its_public_key(tmp_path: Path) -> None:
    secret, public, keyid = keys.generate("alice", tmp_path, None)
    uri = f"file2:{secret}"
    assert keys.load_signer(uri, public, never).public_key.keyid == keyid
    with pytest.raises(CtlError, match="needs its public key"):
        keys.load_signer(uri, None, never)
    _, other, _ = keys.generate("bob", tmp_path, None)
    with pytest.raises(CtlError, match="failed to open the key"):
        keys.load_signer(uri, other, never)


def test_a_pem_key_of_a_kms_signs_releases(ctl: Ctl, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "kms.pem").write_bytes(pem)
    (tmp_path / "kms.key").write_bytes(key_pem(private))
    workspace = tmp_path / "ws"
    words = ("--key", tmp_path / "kms.pem", "--threshold", 1, "-o", workspace)
    ctl("tenant", "create", "acme", *words)
    uri = f"file2:{tmp_path / 'kms.key'}"
    signed = ctl("release", "sign", workspace, "--key", uri, "--pub", tmp_path / "kms.pem")
    assert "root version 1 has 1 of 1 signatures" in signed.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keyid": "00"}, "key id is not that of its key"),
        ({"schema": "other"}, "schema must be"),
        ({"name": None}, "name or keyval is missing"),
        ({"name": "Not A Name"}, "key name must be"),
        ({"keyval": {"public": "zz"}}, "is not a public key"),
        ({"keyval": {"public": "00"}}, "is not a public key"),
    ],
)
def test_damaged_public_keys(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _, public, _ = keys.generate("alice", tmp_path, None)
    public.write_text(json.dumps(json.loads(public.read_text()) | change))
    with pytest.raises(CtlError, match=message):
        keys.load_public(public)


def test_a_private_key_is_never_taken_for_a_public_one(tmp_path: Path) -> None:
    secret, _, _ = keys.generate("alice", tmp_path, None)
    with pytest.raises(CtlError, match="holds a private key"):
        keys.load_public(secret)


def test_tenant_create_refuses_bad_key_sets(ctl: Ctl, tmp_path: Path) -> None:
    ctl.make_keys("alice", "bob")
    alice, bob = tmp_path / "alice.pub", tmp_path / "bob.pub"
    words = ("tenant", "create", "acme", "--key", alice)
    assert "given twice" in ctl(*words, "--key", alice, "--threshold", 1, code=1).stderr
    assert "at least as many keys" in ctl(*words, "--key", bob, "--threshold", 3, code=1).stderr
    assert ctl.json("tenant", "list") == []


def test_a_key_that_others_may_read_is_not_used(ctl: Ctl, tmp_path: Path) -> None:
    secret, _, _ = keys.generate("alice", tmp_path, None)
    secret.chmod(0o640)
    with pytest.raises(CtlError, match="mode 0640"):
        keys.load_signer(str(secret), None, never)
    locked, _, keyid = keys.generate("bob", tmp_path, b"a passphrase")
    locked.chmod(0o644)
    assert keys.load_signer(str(locked), None, lambda: b"a passphrase").public_key.keyid == keyid
    (ctl.profile / "key.pem").chmod(0o604)
    refused = ctl("tenant", "list", code=1).stderr
    assert "may be read by others" in refused
    assert "chmod 600" in refused
