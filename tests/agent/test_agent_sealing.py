"""Private keys at rest: sealed under the service manager's credential, or as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_agent import sealing
from exclave_agent.errors import IdentityError
from exclave_agent.identity import keys
from exclave_agent.sealing import MAGIC, Sealer, from_environment
from exclave_agent.storage.vault import MasterKey
from exclave_agent.system import SystemRng

KEY = bytes(range(32))


@pytest.fixture
def use() -> Iterator[None]:
    """Whatever a test uses is forgotten after it."""
    yield
    sealing._given.clear()
    sealing.current.cache_clear()


def test_what_is_sealed_opens_under_its_own_name_only() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal("key.pem", b"secret")
    assert b"secret" not in sealed and sealed.startswith(MAGIC)
    assert sealer.open("key.pem", sealed) == b"secret"
    for name, data in (("audit.key", sealed), ("key.pem", sealed[:-1]), ("key.pem", MAGIC)):
        with pytest.raises(IdentityError, match="another credential") as refused:
            sealer.open(name, data)
        assert refused.value.code == "identity_sealed"
    with pytest.raises(IdentityError, match="another credential"):
        Sealer(bytes(32)).open("key.pem", sealed)


def test_without_a_key_nothing_is_sealed_and_nothing_sealed_opens() -> None:
    bare = Sealer(None)
    assert bare.seal("key.pem", b"secret") == b"secret"
    assert bare.open("key.pem", b"secret") == b"secret"
    with pytest.raises(IdentityError, match="not at hand"):
        bare.open("key.pem", Sealer(KEY).seal("key.pem", b"secret"))


def test_the_credential_of_a_service(tmp_path: Path) -> None:
    assert not from_environment({}).present
    assert not from_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)}).present
    file = tmp_path / sealing.CREDENTIAL
    file.write_bytes(b"unset")
    assert not from_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)}).present
    file.write_bytes(KEY)
    assert from_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)}).present
    file.write_bytes(b"short")
    with pytest.raises(IdentityError, match="holds 5 bytes, not 32"):
        from_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.usefixtures("use")
def test_keys_of_a_home_are_sealed_once(tmp_path: Path) -> None:
    pem = keys.private_pem(keys.new_identity_key())
    keys.write_private(tmp_path / "key.pem", pem)
    assert keys.seal_keys(tmp_path, ("key.pem", "vault.key")) == ()
    sealing.use(Sealer(KEY))
    assert keys.seal_keys(tmp_path, ("key.pem", "vault.key")) == ("key.pem",)
    assert keys.seal_keys(tmp_path, ("key.pem", "vault.key")) == ()
    assert b"PRIVATE" not in (tmp_path / "key.pem").read_bytes()
    assert keys.read_private(tmp_path / "key.pem") == pem
    keys.write_key(tmp_path / "audit.key", pem)
    assert sealing.is_sealed((tmp_path / "audit.key").read_bytes())
    assert os.stat(tmp_path / "key.pem").st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("use")
def test_the_vaults_key_is_sealed_at_its_birth(tmp_path: Path) -> None:
    sealing.use(Sealer(KEY))
    master = MasterKey.create(tmp_path / "vault.key", SystemRng())
    assert sealing.is_sealed((tmp_path / "vault.key").read_bytes())
    again = MasterKey.load(tmp_path / "vault.key")
    assert again.tag("subject") == master.tag("subject")
    sealing.use(Sealer(None))
    with pytest.raises(IdentityError, match="run this as root"):
        MasterKey.load(tmp_path / "vault.key")
