"""The seal: which key it was made with, by credentials that systemd-creds itself wrote."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.doctor import credential
from exclave_agent.doctor.credential import SealedWith, sealed_with
from exclave_agent.doctor.machine import Stat
from exclave_agent.sealing import CREDENTIAL_FILE, MAGIC
from exclave_testing.doctor import Patient, patient, said

# systemd-creds 252 encrypt --name=seal.key --with-key=host, and =tpm2-absent (the null key).
HOST = b"""\
Whxqht+dQJax1aZeCGLxmiAAAAABAAAADAAAABAAAAAlqs50+2pYy+8mrgIAAAAAy9edDqtU3gRUnPd
Q1l7OYEIaLq0+9tOdEzbXWpoMbUd4O52z30eFomXhCfPqtQ/b+A==
"""
NULL = b"""\
BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAACXwqtug6+tw+O4UtoAAAAAc4tb3PQF8P/DwLa
3smLNAEnM1WkKoHAqF8YSjiF4unJx94ECB4k7bNZw2fsYI9mUow==
"""


def test_by_its_first_bytes() -> None:
    assert sealed_with(HOST) is SealedWith.HOST
    assert sealed_with(NULL) is SealedWith.NULL
    tpm = base64.b64encode(bytes.fromhex("0c7cc07b117645919c4b0bea08bc20fe") + bytes(40))
    assert sealed_with(tpm) is SealedWith.TPM2
    both = base64.b64encode(bytes.fromhex("93a894094874449090caf2fc93cab553") + bytes(40))
    assert sealed_with(both) is SealedWith.HOST_AND_TPM2


@pytest.mark.parametrize("text", [b"", b"unset", b"\xff\xfe", b"AAAA", base64.b64encode(bytes(99))])
def test_whatever_else_is_no_credential(text: bytes) -> None:
    assert sealed_with(text) is None


def sealed(tmp_path: Path, content: bytes | None, key: bytes = MAGIC + b"x") -> Patient:
    who = patient(tmp_path / "home")
    who.home = DEFAULT_HOME
    who.under_systemd()
    for name in ("key.pem", "audit.key", "vault.key"):
        who.machine.files[f"{DEFAULT_HOME}/identity/{name}"] = key
    if content is not None:
        who.machine.files[str(CREDENTIAL_FILE)] = content
    return who


@pytest.mark.parametrize(
    ("content", "result", "words"),
    [
        (HOST, "ok", "sealed with the host key"),
        (NULL, "fail", "null key, which everybody knows"),
        (b"unset\n", "fail", "no credential that systemd wrote"),
        (None, "warn", "there is no credential"),
    ],
)
def test_the_key_it_is_made_with(
    tmp_path: Path, content: bytes | None, result: str, words: str
) -> None:
    (check,) = credential.seal(sealed(tmp_path, content).site())
    assert check.result == result
    assert words in check.detail


def test_keys_that_lie_there_as_they_are(tmp_path: Path) -> None:
    bare = b"-----BEGIN PRIVATE KEY-----"
    (check,) = credential.seal(sealed(tmp_path, None, bare).site())
    assert check.result == "warn"
    assert "keys in the home are not sealed (key.pem, audit.key, vault.key)" in check.detail
    first, second = credential.seal(sealed(tmp_path, HOST, bare).site())
    assert (first.result, second.result) == ("ok", "warn")
    assert "not sealed yet" in second.detail


def test_a_credential_that_others_may_read(tmp_path: Path) -> None:
    who = sealed(tmp_path, HOST)
    who.machine.stats[str(CREDENTIAL_FILE)] = Stat(0o100644, 0, 0, 100)
    warning, kind = credential.seal(who.site())
    assert (warning.result, kind.result) == ("warn", "ok")
    assert "mode 644" in warning.detail


def test_only_root_can_tell(tmp_path: Path) -> None:
    who = sealed(tmp_path, HOST)
    who.machine.forbidden.add(str(CREDENTIAL_FILE))
    (check,) = credential.seal(who.site())
    assert (check.result, check.remedy) == ("skip", "run doctor as root")


def test_another_home_has_no_seal(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    assert said(list(credential.seal(who.site()))) == {"seal": "skip"}
    who.under_systemd()
    assert said(list(credential.seal(who.site()))) == {"seal": "skip"}
