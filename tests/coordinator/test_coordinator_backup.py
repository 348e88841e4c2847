"""A backup is the whole coordinator as of one moment; a restore is all of it, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exclave_coordinator.backup.archive import FORMAT, HEAD, MANIFEST
from exclave_coordinator.backup.restore import Restored, restore
from exclave_coordinator.backup.save import Saved, backup
from exclave_coordinator.commands import main
from exclave_coordinator.errors import CoordinatorError, SetupError, StorageForeign, StorageFull
from exclave_coordinator.home import Home
from exclave_coordinator.storage.database import check_ours
from exclave_coordinator.storage.tables import SCHEMA_VERSION
from exclave_coordinator.system import SystemClock, SystemRng
from exclave_testing.coordinator import RunningCoordinator, Signers, new_home, release_blobs


def save(home: Home, file: Path, **options: Any) -> Saved:
    """A backup as the command makes it."""
    return backup(home, file, version="1.2.3", clock=SystemClock(), rng=SystemRng(), **options)


def load(file: Path, path: Path, **options: Any) -> Restored:
    """A restore as the command does it."""
    return restore(file, path, clock=SystemClock(), rng=SystemRng(), **options)


def files_of(home: Path) -> dict[str, bytes]:
    """Everything in a home that a backup carries, but the database."""
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file()
        and "run/" not in path.as_posix()
        and not path.name.startswith(("coordinator.db", "restored"))
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two artifacts and a tenant's keys."""
    made = new_home(tmp_path / "home")
    for data in (b"", b"model" * 1000):
        place = made.artifacts / "acme" / "sha256"
        place.mkdir(parents=True, exist_ok=True)
        (place / hashlib.sha256(data).hexdigest()).write_bytes(data)
    keys = made.keys / "tenants" / "acme"
    keys.mkdir(parents=True)
    for name in ("snapshot.key", "timestamp.key"):
        (keys / name).write_bytes(made.key("director").read_bytes())
        (keys / name).chmod(0o600)
    return made


@pytest.fixture
def archive(home: Home, tmp_path: Path) -> Path:
    """Its backup."""
    return save(home, tmp_path / "backup.tar").path


def test_everything_comes_back_and_is_private(home: Home, archive: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    restored = load(archive, tmp_path / "again")
    assert files_of(restored.home.path) == files_of(home.path)
    assert restored.members == len(files_of(home.path)) + 1
    for path in (restored.home.path, *restored.home.path.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    with closing(sqlite3.connect(restored.home.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "backup.tar", "home"]


def test_what_is_no_part_of_a_coordinator_stays_out(home: Home, tmp_path: Path) -> None:
    for name in ("coordinator.db.before-2", "notes.txt", ".coordinator.toml.part", "run/lock"):
        (home.path / name).write_bytes(b"x")
    upload = home.artifacts / "acme" / "sha256" / f"{'0' * 64}#1"
    upload.write_bytes(b"half an upload")
    with tarfile.open(save(home, tmp_path / "b.tar").path) as tar:
        names = tar.getnames()
    assert (names[0], names[-1]) == (HEAD, MANIFEST)
    assert not {"notes.txt", "coordinator.db.before-2", "run/lock"} & set(names)
    assert not [n for n in names if "#" in n or n.endswith(".part")]


def test_the_manifest_lists_every_member(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        contents = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]  # all are regular
        assert {m.mode for m in tar.getmembers()} == {0o600}
    listed = json.loads(contents.pop(MANIFEST))["members"]
    assert listed == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data)}
        for name, data in contents.items()
    }
    head = json.loads(contents[HEAD])
    assert (head["schema"], head["version"]) == (SCHEMA_VERSION, "1.2.3")


def test_artifacts_on_another_disk_are_found(home: Home, tmp_path: Path) -> None:
    home.artifacts.rename(tmp_path / "large")
    home.artifacts.symlink_to(tmp_path / "large")
    assert save(home, tmp_path / "b.tar").members == len(files_of(tmp_path / "home")) + 1 + 2


def test_a_backup_overwrites_nothing_and_leaves_nothing(
    home: Home, archive: Path, tmp_path: Path
) -> None:
    before = archive.read_bytes()
    with pytest.raises(SetupError, match="is not overwritten"):
        save(home, archive)
    with pytest.raises(SetupError, match="cannot write in"):
        save(home, tmp_path / "nowhere" / "b.tar")
    home.key("witness").unlink()
    with pytest.raises(SetupError, match=r"keys/witness\.key is missing"):
        save(home, tmp_path / "other.tar")
    with pytest.raises(SetupError, match="init"):
        save(Home(tmp_path), tmp_path / "other.tar")
    assert archive.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup.tar", "home"]


def test_a_damaged_database_is_not_backed_up_as_if_it_were_whole(
    home: Home, tmp_path: Path
) -> None:
    with home.database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 64)
    with pytest.raises(StorageForeign, match="damaged"):
        save(home, tmp_path / "b.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


def test_a_damaged_artifact_is_named_and_not_restored(home: Home, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"model" * 1000).hexdigest()
    (home.artifacts / "acme" / "sha256" / digest).write_bytes(b"rotten")
    saved = save(home, tmp_path / "b.tar")
    assert saved.damaged == (f"artifacts/acme/sha256/{digest}",)
    restored = load(saved.path, tmp_path / "again")
    assert restored.damaged == saved.damaged
    assert not (restored.home.artifacts / "acme" / "sha256" / digest).exists()


def test_a_full_disk_leaves_no_half_backup(home: Home, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for size, said in (("100k", "copy"), ("200k", "no backup was written")):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small file system")
        try:
            with pytest.raises(StorageFull, match=said):
                save(home, disk / "b.tar")
            assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


# --- archives that are not as they were written ----------------------------------------------

Members = list[tuple[tarfile.TarInfo, bytes]]


def _unpacked(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]  # all are regular


def _packed(members: Members, file: Path, *, manifest: bool = True) -> Path:
    """An archive of these members, its manifest true to them if asked."""
    if manifest:
        listed = {
            info.name: {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data)}
            for info, data in members
            if info.name != MANIFEST
        }
        value = json.dumps({"members": listed}).encode()
        members = [(i, value if i.name == MANIFEST else d) for i, d in members]
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return file


def _named(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info, data


def _insert(*extra: Any, at: int = -1) -> Callable[[Members], Members]:
    return lambda members: [*members[:at], *extra, *members[at:]]


def _replaced(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda members: [(i, data if i.name == name else d) for i, d in members]


def _without(name: str) -> Callable[[Members], Members]:
    return lambda members: [(i, d) for i, d in members if i.name != name]


def _head(**change: Any) -> Callable[[Members], Members]:
    head = {"format": FORMAT, "schema": SCHEMA_VERSION, "version": "1", "created": 1, **change}
    return _replaced(HEAD, json.dumps(head).encode())


FORGED: dict[str, tuple[Callable[[Members], Members], str]] = {
    "climbs": (_insert(_named("../evil")), "'../evil', which is no part"),
    "climbs deeper": (_insert(_named("operators/../../evil/key.pem")), "no part of one"),
    "absolute": (_insert(_named("/etc/cron.d/evil")), "no part of one"),
    "foreign": (_insert(_named("coordinator.db.before-2")), "no part of one"),
    "hidden": (_insert(_named("operators/admin/.bashrc")), "no part of one"),
    "odd tenant": (_insert(_named("artifacts/Acme/sha256/" + "0" * 64)), "no part of one"),
    "marker": (_insert(_named("restored.json")), "no part of one"),
    "symlink": (_insert(_named("ca/ca.pem", kind=tarfile.SYMTYPE)), "not a plain file"),
    "hard link": (_insert(_named("ca/ca.pem", kind=tarfile.LNKTYPE)), "not a plain file"),
    "device": (_insert(_named("ca/ca.pem", kind=tarfile.CHRTYPE)), "not a plain file"),
    "fifo": (_insert(_named("ca/ca.pem", kind=tarfile.FIFOTYPE)), "not a plain file"),
    "folder": (_insert(_named("ca", kind=tarfile.DIRTYPE)), "not a plain file"),
    "twice": (_insert(_named("ca/ca.pem")), "holds ca/ca.pem twice"),
    "another first": (_insert(_named("ca/ca.pem"), at=0), "its first member is another"),
    "too large": (_insert(_named("operators/x/key.pem", bytes(2 << 20))), "of 2097152 bytes"),
    "no CA": (_without("ca/ca.key"), "lacks ca/ca.key"),
    "no database": (_without("coordinator.db"), "lacks coordinator.db"),
    "no manifest": (_without(MANIFEST), "its manifest is missing"),
    "other database": (_replaced("coordinator.db", b"SQLite?" * 999), "damaged, or no SQLite"),
    "other settings": (_replaced("coordinator.toml", b"listen = 7"), "listen must be a string"),
    "other key": (_replaced("keys/witness.key", b"nonsense"), "witness.key is no readable key"),
    "other CA": (_replaced("ca/ca.key", b"nonsense"), "ca"),
    "newer schema": (
        _head(schema=SCHEMA_VERSION + 5, version="9"),
        f"schema version {SCHEMA_VERSION + 5}, this program knows {SCHEMA_VERSION}: restore it "
        "with version 9 or newer",
    ),
    "other schema": (_head(schema=0), f"says schema 0, its database {SCHEMA_VERSION}"),
    "newer format": (_head(format="exclave.coordinator-backup/v2"), "this program reads"),
    "odd version": (_head(schema=7, version="9\x1b[2J"), "lacks a field or has a wrong one"),
    "no fields": (_head(schema=None), "lacks a field or has a wrong one"),
    "no JSON": (_replaced(HEAD, b"[" * 100_000), "not readable JSON"),
    "no object": (_replaced(HEAD, b"[]"), "not a JSON object"),
}


@pytest.mark.parametrize("fault", FORGED)
def test_a_forged_archive_makes_no_home(archive: Path, tmp_path: Path, fault: str) -> None:
    change, said = FORGED[fault]
    forged = _packed(change(_unpacked(archive)), tmp_path / "forged.tar")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(CoordinatorError) as refused:
        load(forged, tmp_path / "again")
    assert said in refused.value.message
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_replaced("ca/ca.pem", b"other"), "ca/ca.pem is not what its manifest says"),
        (_without("operators/admin/key.pem"), "lacks operators/admin/key.pem, which"),
        (_insert(_named("operators/eve/key.pem")), "operators/eve/key.pem is not what"),
        (lambda m: [*m, _named("ca/ca.pem")], "goes on after its manifest"),
        (_replaced(MANIFEST, b'{"members":[]}'), "lists no members"),
        (_replaced(MANIFEST, b"{}"), "lists no members"),
    ],
)
def test_what_the_manifest_does_not_say_is_refused(
    archive: Path, tmp_path: Path, change: Callable[[Members], Members], said: str
) -> None:
    forged = _packed(change(_unpacked(archive)), tmp_path / "forged.tar", manifest=False)
    with pytest.raises(SetupError) as refused:
        load(forged, tmp_path / "again")
    assert said in refused.value.message
    assert not (tmp_path / "again").exists()


def test_an_archive_that_was_cut_anywhere_makes_no_home(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    end = len(whole.rstrip(b"\0"))  # what follows is tar's padding
    cut = tmp_path / "cut.tar"
    for length in (0, 1, 100, 511, 512, 1024, 1536, *range(2000, end, 7919), end - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(SetupError):
            load(cut, tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup.tar", "cut.tar", "home"]


def test_a_byte_changed_anywhere_makes_no_home(archive: Path, tmp_path: Path) -> None:
    whole = bytearray(archive.read_bytes())
    end = len(whole.rstrip(b"\0"))
    bent = tmp_path / "bent.tar"
    refused = 0
    for at in range(0, end, 1009):
        whole[at] ^= 0x40
        bent.write_bytes(whole)
        whole[at] ^= 0x40
        try:
            restored = load(bent, tmp_path / "again")
        except CoordinatorError:
            refused += 1
            continue
        # Only tar's own padding and times may differ without a word.
        assert files_of(restored.home.path) == files_of(tmp_path / "home")
        subprocess.run(["rm", "-r", str(restored.home.path)], check=True)
    assert refused > 100


def test_restore_overwrites_nothing(home: Home, archive: Path, tmp_path: Path) -> None:
    before = files_of(home.path)
    with pytest.raises(SetupError, match="exists and is not empty: nothing was changed"):
        load(archive, home.path)
    assert files_of(home.path) == before
    with pytest.raises(SetupError, match="cannot be read: No such file"):
        load(tmp_path / "none.tar", tmp_path / "again")
    (tmp_path / "empty").mkdir()
    assert load(archive, tmp_path / "empty").home.database.exists()


def test_a_full_disk_leaves_no_half_home(archive: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(SetupError, match="No space left on device"):
            load(archive, disk / "home")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --- while it serves -----------------------------------------------------------------------------


def _referenced(home: Home) -> set[str]:
    """Artifacts that the database's signed metadata names."""
    with closing(sqlite3.connect(home.database)) as connection:
        query = "SELECT tenant, content FROM tuf_files WHERE name = 'targets.json'"
        rows = connection.execute(query).fetchall()
    return {
        f"artifacts/{tenant}/sha256/{target['hashes']['sha256']}"
        for tenant, content in rows
        for target in json.loads(content)["signed"]["targets"].values()
    }


async def test_a_backup_while_releases_are_published_lacks_nothing(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    tenant = await centre.tenant("acme")
    people, version = Signers(), 0

    async def publish() -> None:
        nonlocal version
        while True:
            number = version + 1
            blobs = release_blobs("acme", number)
            await centre.upload("acme", blobs)
            roots = [people.root(tenant, ("ann", "bob"))] if number == 1 else []
            await centre.publish("acme", roots, people.targets(number, blobs, ("ann", "bob")))
            await centre.enroll("acme")
            version = number

    publishing = asyncio.create_task(publish())
    saved: list[Saved] = []
    async with asyncio.timeout(60):
        while version < 4 or len(saved) < 4:
            file = tmp_path / f"{len(saved)}.tar"
            saved.append(await asyncio.to_thread(save, centre.home, file))
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    seen = set()
    for number, item in enumerate(saved):
        restored = await asyncio.to_thread(load, item.path, tmp_path / f"home{number}")
        named = _referenced(restored.home)
        assert named <= files_of(restored.home.path).keys()
        seen.add(len(named) and max(named))
        with closing(sqlite3.connect(restored.home.database)) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert len(seen) > 1, "the backups are of different moments"


def test_the_commands(home: Home, tmp_path: Path) -> None:
    def run(*words: Any) -> Any:
        return CliRunner().invoke(main, [str(w) for w in words])

    file, phrase = tmp_path / "b", tmp_path / "phrase"
    phrase.write_text("correct horse battery staple\n")
    done = run("backup", "--home", home.path, file, "--passphrase-file", phrase)
    assert done.exit_code == 1
    assert "may be read by others" in done.output
    nowhere = tmp_path / "nowhere"
    done = run("backup", "--home", home.path, file, "--passphrase-file", nowhere)
    assert done.exit_code == 1
    assert done.output == f"Error: --passphrase-file: no file {nowhere}\n"
    phrase.chmod(0o600)
    done = run("backup", "--home", home.path, file, "--passphrase-file", phrase)
    assert done.exit_code == 0, done.output
    assert "in the clear" not in done.output
    again = run("restore", file, "--home", tmp_path / "again")
    assert again.exit_code == 1
    assert "--passphrase-file" in again.output
    again = run("restore", file, "--home", tmp_path / "again", "--passphrase-file", phrase)
    assert again.exit_code == 0, again.output
    assert "written by version" in again.output
    plain = run("backup", "--home", home.path, tmp_path / "plain.tar")
    assert "in the clear: keep it as you keep those" in plain.output
    again = run(
        "restore", tmp_path / "plain.tar", "--home", tmp_path / "x", "--passphrase-file", phrase
    )
    assert again.exit_code == 1
    assert "not sealed" in again.output
    assert check_ours(Home(tmp_path / "again").database) == SCHEMA_VERSION
