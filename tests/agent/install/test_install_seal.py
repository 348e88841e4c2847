"""The seal replaced by a new one: nothing is lost wherever it is interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_agent.errors import IdentityError
from exclave_agent.identity.store import PRIVATE_KEYS
from exclave_agent.install import seal, units
from exclave_agent.install.steps import IDENTITY, Installation, InstallRefused, Options
from exclave_agent.sealing import CREDENTIAL_FILE, MAGIC, Sealer, is_sealed
from exclave_testing.host import FakeHost
from exclave_testing.processes import ROOT

OLD, NEW = b"o" * 32, b"n" * 32


def installed() -> FakeHost:
    """A machine whose keys are sealed with OLD and whose agent runs."""
    host = FakeHost()
    host.users |= {units.USER, units.WORKER_USER}
    host.make_home(Path("/var/lib/exclave"), units.USER)
    host.files[IDENTITY / "join.json"] = (
        b'{"spiffe_id": "spiffe://example.org/tenant/acme/agent/north", "root_pin": "ab"}'
    )
    host.files[CREDENTIAL_FILE] = b"sealed:" + OLD
    for name in PRIVATE_KEYS:
        host.files[IDENTITY / name] = Sealer(OLD).seal(name, name.encode())
    run(host, trust_enrollment=True)
    return host


def run(host: FakeHost, *, reseal: bool = False, **options: object) -> list[str]:
    """`exclave-agent install`; the first words of what it did."""
    given = Options(reseal=reseal, **options)  # type: ignore[arg-type]  # as the CLI fills it
    work = Installation(host, given, random=lambda size: NEW[:size])
    work.check()
    done = []
    for change in work.changes():
        change.do()
        done.append(change.what.split(",")[0])
    return done


def keys_open_with(host: FakeHost, key: bytes) -> None:
    for name in PRIVATE_KEYS:
        assert is_sealed(data := host.files[IDENTITY / name])
        assert Sealer(key).open(name, data) == name.encode()


def test_a_new_key_takes_the_old_ones_place() -> None:
    host = installed()
    assert run(host, reseal=True) == [
        "make /etc/exclave/seal.key.next.cred",
        "stop the agent",
        "seal the keys in /var/lib/exclave/identity with the new key",
        "put it in the place of /etc/exclave/seal.key.cred",
        "start the agent",
    ]
    keys_open_with(host, NEW)
    assert host.files[CREDENTIAL_FILE] == b"sealed:" + NEW
    assert host.modes[CREDENTIAL_FILE] == 0o600
    assert seal.NEXT not in host.files
    assert units.AGENT in host.active
    assert run(host) == [], "it is not done again by itself"


def test_a_dry_run_tells_the_same_and_does_nothing() -> None:
    host = installed()
    before = dict(host.files)
    work = Installation(host, Options(reseal=True), random=bytes)
    work.check()
    assert [change.what.split()[0] for change in work.changes()] == [
        "make",
        "stop",
        "seal",
        "put",
        "start",
    ]
    assert host.files == before and units.AGENT in host.active


@pytest.mark.parametrize("rewrites", [0, 1, 2])
def test_an_interruption_while_keys_are_rewritten_is_finished_by_install(rewrites: int) -> None:
    host = installed()
    host.rewrites = rewrites
    with pytest.raises(InstallRefused, match="not sealed anew: power cut"):
        run(host, reseal=True)
    assert host.files[CREDENTIAL_FILE] == b"sealed:" + OLD
    assert host.files[seal.NEXT] == b"sealed:" + NEW, "every key opens with one of the two"
    host.rewrites = -1
    assert "make" not in " ".join(run(host)), "no third key"
    keys_open_with(host, NEW)
    assert host.files[CREDENTIAL_FILE] == b"sealed:" + NEW
    assert seal.NEXT not in host.files


@pytest.mark.parametrize("step", range(1, 5))
def test_an_interruption_after_any_step_is_finished_by_install(step: int) -> None:
    host = installed()
    work = Installation(host, Options(reseal=True), random=lambda size: NEW[:size])
    work.check()
    for _, change in zip(range(step), work.changes(), strict=False):
        change.do()
    run(host)
    keys_open_with(host, NEW)
    assert units.AGENT in host.active and seal.NEXT not in host.files


def test_an_interruption_between_the_switch_and_its_end() -> None:
    host = installed()
    run(host, reseal=True)
    host.files[seal.NEXT] = host.files[CREDENTIAL_FILE]
    run(host)
    keys_open_with(host, NEW)
    assert seal.NEXT not in host.files


@pytest.mark.parametrize(
    ("damage", "options", "says"),
    [
        (lambda h: h.files.pop(CREDENTIAL_FILE), {}, "missing: restore it"),
        (lambda h: (h.files.pop(CREDENTIAL_FILE), h.files.pop(IDENTITY / "vault.key")), {},
         "without --reseal"),
        (lambda h: None, {"seal": "none"}, "choose another"),
        (lambda h: h.files.update({seal.UPGRADING: b""}), {}, "upgrade of the agent runs"),
        (lambda h: h.fails.update({"systemd-creds encrypt": "no TPM2"}), {}, "no TPM2"),
        (lambda h: h.fails.update({"systemctl stop": "busy"}), {}, "busy"),
        (lambda h: h.fails.update({"systemd-creds decrypt": "bad key"}), {}, "bad key"),
        (lambda h: h.files.update({CREDENTIAL_FILE: b"sealed:short"}), {}, "holds 5 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_work_changes_no_key(
    damage: object, options: dict[str, object], says: str
) -> None:
    host = installed()
    damage(host)  # type: ignore[operator]  # a lambda of the table
    before = {name: host.files.get(IDENTITY / name) for name in PRIVATE_KEYS}
    with pytest.raises(InstallRefused, match=says):
        run(host, reseal=True, **options)
    assert {name: host.files.get(IDENTITY / name) for name in PRIVATE_KEYS} == before


def test_keys_never_are_arguments() -> None:
    host = installed()
    run(host, reseal=True)
    words = [word for command in host.commands for word in command]
    assert not any(key.decode() in word for key in (OLD, NEW) for word in words)


# --- the helper that rewrites the files ----------------------------------------------------


def folder_with_keys(home: Path, *, plain: str = "") -> Path:
    folder = home / "identity"
    folder.mkdir(mode=0o700)
    for name in PRIVATE_KEYS:
        data = name.encode()
        (folder / name).write_bytes(data if name == plain else Sealer(OLD).seal(name, data))
        (folder / name).chmod(0o600)
    return folder


def contents(folder: Path, key: bytes) -> dict[str, bytes]:
    return {name: Sealer(key).open(name, (folder / name).read_bytes()) for name in PRIVATE_KEYS}


def test_files_are_sealed_anew_and_so_are_plain_ones(tmp_path: Path) -> None:
    folder = folder_with_keys(tmp_path, plain="audit.key")
    seal.rewrite(folder, OLD, NEW)
    assert contents(folder, NEW) == {name: name.encode() for name in PRIVATE_KEYS}
    assert (folder / "audit.key").read_bytes().startswith(MAGIC)
    assert {(folder / name).stat().st_mode & 0o777 for name in PRIVATE_KEYS} == {0o600}
    before = {name: (folder / name).read_bytes() for name in PRIVATE_KEYS}
    seal.rewrite(folder, OLD, NEW)
    assert {name: (folder / name).read_bytes() for name in PRIVATE_KEYS} == before


def test_one_key_that_does_not_open_leaves_all_as_they_are(tmp_path: Path) -> None:
    folder = folder_with_keys(tmp_path)
    (folder / "vault.key").write_bytes(Sealer(b"x" * 32).seal("vault.key", b"secret"))
    with pytest.raises(IdentityError, match=r"vault\.key was sealed with another"):
        seal.rewrite(folder, OLD, NEW)
    assert Sealer(OLD).open("key.pem", (folder / "key.pem").read_bytes()) == b"key.pem"


def test_a_key_that_is_not_there_yet_is_no_trouble(tmp_path: Path) -> None:
    folder = folder_with_keys(tmp_path)
    (folder / "vault.key").unlink()
    seal.rewrite(folder, OLD, NEW)
    assert not (folder / "vault.key").exists()


def test_the_helper_is_a_program_that_takes_both_keys_on_its_input(tmp_path: Path) -> None:
    folder = folder_with_keys(tmp_path)
    code = (
        "import sys, pathlib; from exclave_agent.install.seal import main;"
        "sys.exit(main(pathlib.Path(sys.argv[1])))"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in ("proto", "packaging", "agent"))
    command = [sys.executable, "-c", code, str(tmp_path)]

    def helper(keys: bytes) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "PYTHONPATH": paths}
        return subprocess.run(command, input=keys, capture_output=True, timeout=60, env=env)

    assert helper(OLD + NEW).returncode == 0
    assert contents(folder, NEW) == {name: name.encode() for name in PRIVATE_KEYS}
    wrong = helper(OLD + b"x" * 32)
    assert wrong.returncode == 1
    assert (
        b"was sealed with another credential" in wrong.stderr and b"Traceback" not in wrong.stderr
    )
