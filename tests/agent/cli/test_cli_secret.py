"""Secrets: never shown, always encrypted, taken at once, and given by name alone."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from exclave_agent import sealing
from exclave_agent.cli.secret import command
from exclave_agent.errors import BadRequest, IdentityError, NoTarget
from exclave_agent.identity.secrets import Secrets
from exclave_agent.identity.store import PRIVATE_KEYS, private_keys
from exclave_agent.install.seal import rewrite

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
    return home / "identity" / "secrets" / f"{name}.secret"


def former(home: Path, name: str = "main") -> Path:
    """Where versions before this one kept the secret itself."""
    return home / "identity" / f"remote-{name}.key"


def leave(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)


def test_a_key_is_kept_for_its_owner_alone(home: Path) -> None:
    keys = Secrets(home, {})
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
    keys = Secrets(home, {})
    keys.set("main", KEY)
    file(home).chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        Secrets(home, {}).get("main")
    assert caught.value.code == "identity_exposed"


def test_a_key_that_was_used_and_is_opened_to_others_is_refused(home: Path) -> None:
    keys = Secrets(home, {})
    keys.set("main", KEY)
    assert keys.get("main") == KEY
    file(home).chmod(0o640)
    with pytest.raises(IdentityError) as caught:
        keys.get("main")
    assert caught.value.code == "identity_exposed"
    file(home).chmod(0o600)
    assert keys.get("main") == KEY


def test_a_key_that_was_removed_is_not_kept_in_memory(home: Path) -> None:
    keys = Secrets(home, {})
    keys.set("main", KEY)
    assert keys.get("main") == KEY
    keys.remove("main")
    assert keys.get("main") is None
    assert KEY not in repr(vars(keys))


def test_a_secret_is_encrypted_and_bound_to_its_name(home: Path) -> None:
    secrets = Secrets(home, {})
    secrets.set("main", KEY)
    data = file(home).read_bytes()
    assert KEY.encode() not in data and KEY.encode().hex() not in data.hex()
    secrets.set("main", KEY)
    assert file(home).read_bytes() != data, "a nonce of its own for each writing"
    assert Secrets(home, {}).get("main") == KEY
    # Under another name, or altered, it does not open.
    leave(file(home, "other"), data)
    for name in ("other", "main"):
        with pytest.raises(IdentityError) as caught:
            Secrets(home, {}).get(name)
        assert caught.value.code == "identity_damaged"
        assert f"secret set {name}" in caught.value.message
        leave(file(home), file(home).read_bytes()[:-1] + b"\0")


def test_without_their_key_secrets_do_not_open_and_none_is_made_anew(home: Path) -> None:
    Secrets(home, {}).set("main", KEY)
    (home / "identity" / "secrets.key").unlink()
    with pytest.raises(IdentityError, match=r"secrets\.key is missing"):
        Secrets(home, {}).get("main")
    with pytest.raises(IdentityError, match=r"secrets\.key is missing"):
        Secrets(home, {}).set("b", KEY)


def test_nothing_in_the_home_says_it(home: Path) -> None:
    secrets = Secrets(home, {})
    secrets.set("main", KEY)
    assert secrets.get("main") == KEY and len(secrets.key("main")) == 32
    forms = (KEY, KEY.encode().hex(), base64.b64encode(KEY.encode()).decode()[:-4])
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert not any(form.encode() in path.read_bytes() for form in forms)
        assert path.stat().st_mode & 0o777 == 0o600
    assert KEY not in repr(secrets.list())


@pytest.mark.usefixtures("sealer")
def test_what_they_are_encrypted_under_is_sealed(home: Path) -> None:
    Secrets(home, {}).set("main", KEY)
    assert sealing.is_sealed((home / "identity" / "secrets.key").read_bytes())
    sealing.use(sealing.Sealer(None))
    with pytest.raises(IdentityError) as caught:
        Secrets(home, {}).get("main")
    assert caught.value.code == "identity_sealed"


def test_secrets_of_a_former_version_are_taken_over(home: Path) -> None:
    leave(former(home), KEY.encode())
    secrets = Secrets(home, {})
    assert secrets.get("main") == KEY and [one.name for one in secrets.list()] == ["main"]
    assert secrets.take_over() == ("main",)
    assert not former(home).exists() and secrets.get("main") == KEY
    assert KEY.encode() not in file(home).read_bytes()
    assert secrets.take_over() == ()


def test_a_kill_between_its_steps_loses_nothing(home: Path) -> None:
    leave(former(home), KEY.encode())
    Secrets(home, {}).take_over()
    kept = file(home).read_bytes()
    leave(former(home), KEY.encode())  # as it is before the last step
    os.utime(former(home), ns=(0, 0))
    Secrets(home, {}).take_over()
    assert file(home).read_bytes() == kept and not former(home).exists()
    # After a downgrade somebody set another one: the newer counts.
    leave(former(home), b"sk-newer")
    os.utime(former(home), ns=(2**62, 2**62))
    Secrets(home, {}).take_over()
    assert Secrets(home, {}).get("main") == "sk-newer"


@pytest.mark.usefixtures("sealer")
def test_a_sealed_one_of_a_former_version_is_taken_over(home: Path) -> None:
    leave(former(home), sealing.current().seal("remote-main.key", KEY.encode()))
    assert private_keys(home / "identity") == (*PRIVATE_KEYS, "remote-main.key")
    Secrets(home, {}).take_over()
    assert Secrets(home, {}).get("main") == KEY


def test_a_damaged_one_of_a_former_version_holds_up_nothing(home: Path) -> None:
    leave(former(home), b"two words")
    leave(former(home, "good"), KEY.encode())
    assert Secrets(home, {}).take_over() == ("good",)
    assert Secrets(home, {}).get("good") == KEY
    with pytest.raises(IdentityError, match="exclave-agent secret set"):
        Secrets(home, {}).get("main")
    assert run(home, "list")[1].split() == ["good", "home", "main", "home"]
    assert run(home, "set", "main", given=KEY)[0] == 0
    assert Secrets(home, {}).get("main") == KEY and not former(home).exists()


def test_two_who_set_the_first_secrets_at_once_keep_both(home: Path) -> None:
    def put(number: int) -> None:
        Secrets(home, {}).set(f"s{number}", f"{KEY}-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(16)))
    secrets = Secrets(home, {})
    assert [secrets.get(f"s{number}") for number in range(16)] == [
        f"{KEY}-{number}" for number in range(16)
    ]
    assert [path.name for path in (home / "identity").glob(".*")] == []


def test_keys_of_redactions(home: Path) -> None:
    secrets = Secrets(home, {})
    secrets.set("pseudonyms", KEY)
    own = secrets.key("")
    assert own == Secrets(home, {}).key("") and len(own) == 32
    named = secrets.key("pseudonyms")
    assert named != own and KEY.encode() not in named
    secrets.set("copy", KEY)
    assert secrets.key("copy") == named, "the same secret makes the same tokens everywhere"
    with pytest.raises(NoTarget) as caught:
        secrets.key("missing")
    assert caught.value.code == "secret_missing"


@pytest.mark.usefixtures("sealer")
def test_another_seal_takes_them_along(home: Path) -> None:
    Secrets(home, {}).set("main", KEY)
    rewrite(home / "identity", OLD, NEW)
    sealing.use(sealing.Sealer(NEW))
    assert Secrets(home, {}).get("main") == KEY


def test_a_credential_counts_before_the_home(home: Path) -> None:
    credentials = home / "credentials"
    credentials.mkdir()
    (credentials / "exclave-remote-main").write_text("sk-credential\n")
    keys = Secrets(home, {"CREDENTIALS_DIRECTORY": str(credentials)})
    keys.set("main", KEY)
    assert keys.get("main") == "sk-credential"
    assert [(one.name, one.source) for one in keys.list()] == [("main", "credential")]
    (credentials / "exclave-remote-main").unlink()
    assert keys.get("main") == KEY


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\nb", b"x" * 9000])
def test_what_is_no_key(home: Path, content: bytes) -> None:
    leave(former(home), content)
    with pytest.raises(IdentityError) as caught:
        Secrets(home, {}).get("main")
    assert caught.value.code == "identity_damaged"


@pytest.mark.parametrize("name", ["", "../x", "A", "a_b", "x" * 64])
def test_names(home: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        Secrets(home, {}).set(name, KEY)


# --- the command -----------------------------------------------------------------------------


def run(home: Path, *words: str, given: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(command, [*words, "--home", str(home)], input=given)
    return result.exit_code, result.output


def test_the_command(home: Path) -> None:
    assert run(home, "set", "main", given=f"{KEY}\n") == (0, "secret main is set\n")
    assert Secrets(home, {}).get("main") == KEY
    code, listed = run(home, "list")
    assert (code, listed.split()) == (0, ["main", "home"])
    assert json.loads(run(home, "list", "--json")[1]) == [{"name": "main", "source": "home"}]
    assert run(home, "remove", "main") == (0, "secret main is removed\n")
    assert run(home, "list") == (0, "")


def test_a_secret_can_come_from_a_file(home: Path) -> None:
    (home / "given").write_text(f"{KEY}\n")
    code, _ = run(home, "set", "main", "--from-file", str(home / "given"))
    assert code == 0 and Secrets(home, {}).get("main") == KEY


def test_the_key_is_never_an_argument(home: Path) -> None:
    code, told = run(home, "set", "main", KEY)
    assert code == 2 and "unexpected extra argument" in told
    assert not file(home).exists()


@pytest.mark.parametrize("given", ["", "two words\n", "é\n"])
def test_a_bad_key_is_refused_and_not_repeated(home: Path, given: str) -> None:
    result = CliRunner().invoke(command, ["set", "main", "--home", str(home)], input=given)
    assert isinstance(result.exception, BadRequest)
    assert not given.strip() or given.strip() not in str(result.exception)
    assert not file(home).exists()
