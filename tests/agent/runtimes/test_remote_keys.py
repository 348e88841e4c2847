"""Keys of remote endpoints: never shown, sealed, taken at once, and given by name alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from exclave_agent import sealing
from exclave_agent.cli.remote import command
from exclave_agent.errors import BadRequest, IdentityError
from exclave_agent.identity.keys import seal_keys
from exclave_agent.identity.store import PRIVATE_KEYS, private_keys
from exclave_agent.install.seal import rewrite
from exclave_agent.runtimes.remote_keys import RemoteKeys

KEY = "sk-live-0123456789"
OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def sealer() -> Iterator[None]:
    sealing.use(sealing.Sealer(OLD))
    yield
    sealing.use(sealing.Sealer(None))
    sealing._given.clear()
    sealing.current.cache_clear()


def file(home: Path, name: str = "main") -> Path:
    return home / "identity" / f"remote-{name}.key"


def test_a_key_is_kept_for_its_owner_alone(home: Path) -> None:
    keys = RemoteKeys(home, {})
    assert keys.get("main") is None and not keys.has("main")
    keys.set("main", KEY)
    assert keys.get("main") == KEY and keys.has("main")
    assert file(home).stat().st_mode & 0o777 == 0o600
    assert [(one.name, one.source) for one in keys.list()] == [("main", "home")]
    keys.set("main", "sk-2")
    assert keys.get("main") == "sk-2"
    keys.remove("main")
    assert keys.get("main") is None
    with pytest.raises(BadRequest):
        keys.remove("main")


def test_a_key_that_others_can_read_is_refused(home: Path) -> None:
    keys = RemoteKeys(home, {})
    keys.set("main", KEY)
    file(home).chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        RemoteKeys(home, {}).get("main")
    assert caught.value.code == "identity_exposed"


def test_a_key_that_was_used_and_is_opened_to_others_is_refused(home: Path) -> None:
    keys = RemoteKeys(home, {})
    keys.set("main", KEY)
    assert keys.get("main") == KEY
    file(home).chmod(0o640)
    with pytest.raises(IdentityError) as caught:
        keys.get("main")
    assert caught.value.code == "identity_exposed"
    file(home).chmod(0o600)
    assert keys.get("main") == KEY


def test_a_key_that_was_removed_is_not_kept_in_memory(home: Path) -> None:
    keys = RemoteKeys(home, {})
    keys.set("main", KEY)
    assert keys.get("main") == KEY
    keys.remove("main")
    assert keys.get("main") is None
    assert KEY not in repr(vars(keys))


@pytest.mark.usefixtures("sealer")
def test_a_key_is_sealed(home: Path) -> None:
    keys = RemoteKeys(home, {})
    keys.set("main", KEY)
    assert KEY.encode() not in file(home).read_bytes()
    assert RemoteKeys(home, {}).get("main") == KEY
    # Under another file's name it does not open.
    file(home, "other").write_bytes(file(home).read_bytes())
    file(home, "other").chmod(0o600)
    with pytest.raises(IdentityError) as caught:
        RemoteKeys(home, {}).get("other")
    assert caught.value.code == "identity_sealed"


@pytest.mark.usefixtures("sealer")
def test_a_key_from_before_the_seal_is_sealed_with_the_others(home: Path) -> None:
    file(home).parent.mkdir()
    file(home).write_bytes(KEY.encode())
    file(home).chmod(0o600)
    folder = home / "identity"
    assert private_keys(folder) == (*PRIVATE_KEYS, "remote-main.key")
    assert seal_keys(folder, private_keys(folder)) == ("remote-main.key",)
    assert RemoteKeys(home, {}).get("main") == KEY


@pytest.mark.usefixtures("sealer")
def test_another_seal_takes_them_along(home: Path) -> None:
    RemoteKeys(home, {}).set("main", KEY)
    rewrite(home / "identity", OLD, NEW)
    sealing.use(sealing.Sealer(NEW))
    assert RemoteKeys(home, {}).get("main") == KEY


def test_a_credential_counts_before_the_home(home: Path) -> None:
    credentials = home / "credentials"
    credentials.mkdir()
    (credentials / "exclave-remote-main").write_text("sk-credential\n")
    keys = RemoteKeys(home, {"CREDENTIALS_DIRECTORY": str(credentials)})
    keys.set("main", KEY)
    assert keys.get("main") == "sk-credential"
    assert [(one.name, one.source) for one in keys.list()] == [("main", "credential")]
    (credentials / "exclave-remote-main").unlink()
    assert keys.get("main") == KEY


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\nb", b"x" * 9000])
def test_what_is_no_key(home: Path, content: bytes) -> None:
    file(home).parent.mkdir()
    file(home).write_bytes(content)
    file(home).chmod(0o600)
    with pytest.raises(IdentityError) as caught:
        RemoteKeys(home, {}).get("main")
    assert caught.value.code == "identity_damaged"


@pytest.mark.parametrize("name", ["", "../x", "A", "a_b", "x" * 64])
def test_names(home: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        RemoteKeys(home, {}).set(name, KEY)


# --- the command -----------------------------------------------------------------------------


def run(home: Path, *words: str, given: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(command, [*words, "--home", str(home)], input=given)
    return result.exit_code, result.output


def test_the_command(home: Path) -> None:
    assert run(home, "set-key", "main", given=f"{KEY}\n") == (0, "key main is set\n")
    assert RemoteKeys(home, {}).get("main") == KEY
    code, listed = run(home, "list")
    assert (code, listed.split()) == (0, ["main", "home"])
    assert json.loads(run(home, "list", "--json")[1]) == [{"name": "main", "source": "home"}]
    assert run(home, "remove-key", "main") == (0, "key main is removed\n")
    assert run(home, "list") == (0, "")


def test_the_key_is_never_an_argument(home: Path) -> None:
    code, told = run(home, "set-key", "main", KEY)
    assert code == 2 and "unexpected extra argument" in told
    assert not file(home).exists()


@pytest.mark.parametrize("given", ["", "two words\n", "é\n"])
def test_a_bad_key_is_refused_and_not_repeated(home: Path, given: str) -> None:
    result = CliRunner().invoke(command, ["set-key", "main", "--home", str(home)], input=given)
    assert isinstance(result.exception, BadRequest)
    assert not given.strip() or given.strip() not in str(result.exception)
    assert not file(home).exists()
