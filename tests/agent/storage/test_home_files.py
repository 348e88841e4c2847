"""A home's files: ours, whole and of a version we know, or left exactly as they are."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_agent.errors import StorageError, StorageForeign
from exclave_agent.storage.home import VAULT_KEY, Storage, prepare, read_log
from exclave_testing.clock import SeededRng
from exclave_testing.homes import Home, execute, intent, state, vault


def snapshot(path: Path) -> bytes:
    return path.read_bytes()


async def open_and_close(home: Path) -> None:
    await Storage(home, SeededRng()).close()


async def test_a_new_home_is_private_and_opens_again(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    await open_and_close(tmp_path)
    for path in (state(tmp_path), vault(tmp_path), tmp_path / VAULT_KEY):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.new*"))


@pytest.mark.parametrize("name", ["state.db", "vault.db"])
async def test_a_file_that_is_no_database_is_refused_and_left(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (tmp_path / "identity").mkdir()
    (tmp_path / VAULT_KEY).write_bytes(bytes(32))
    path.write_bytes(b"some notes of mine\n" * 20)
    before = snapshot(path)
    with pytest.raises(StorageForeign, match=r"not a SQLite database.*left as it is|left"):
        await open_and_close(tmp_path)
    assert snapshot(path) == before


@pytest.mark.parametrize("name", ["state.db", "vault.db"])
async def test_another_programs_database_is_refused_and_left(tmp_path: Path, name: str) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / VAULT_KEY).write_bytes(bytes(32))
    execute(tmp_path / name, "CREATE TABLE theirs (x)")
    before = snapshot(tmp_path / name)
    with pytest.raises(StorageForeign, match="another program"):
        await open_and_close(tmp_path)
    assert snapshot(tmp_path / name) == before


async def test_a_newer_schema_is_refused_and_left(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    execute(state(tmp_path), "PRAGMA user_version = 99")
    before = snapshot(state(tmp_path))
    with pytest.raises(StorageForeign, match=r"schema 99, this program knows \d+"):
        await open_and_close(tmp_path)
    assert snapshot(state(tmp_path)) == before


async def test_damaged_pages_are_refused_and_left(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        for number in range(40):
            await home.log.append(intent(f"d{number}"))
    data = bytearray(snapshot(state(tmp_path)))
    # The header stays; the schema's and the tables' pages are shot through.
    for offset in range(4096, len(data), 4096):
        data[offset : offset + 64] = os.urandom(64)
    state(tmp_path).write_bytes(data)
    with pytest.raises(StorageForeign, match="damaged"):
        await open_and_close(tmp_path)
    assert snapshot(state(tmp_path)) == bytes(data)


async def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    state(tmp_path).write_bytes(snapshot(state(tmp_path))[:50])
    with pytest.raises(StorageForeign):
        await open_and_close(tmp_path)


async def test_a_half_made_file_of_a_crash_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "state.db.new").write_bytes(b"half")
    await open_and_close(tmp_path)
    assert not (tmp_path / "state.db.new").exists()


async def test_a_vault_without_its_key_is_a_loss_that_is_named(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    (tmp_path / VAULT_KEY).unlink()
    with pytest.raises(StorageForeign, match="key file is missing"):
        await open_and_close(tmp_path)
    assert not (tmp_path / VAULT_KEY).exists()


async def test_a_vault_under_another_key_is_refused(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    (tmp_path / VAULT_KEY).write_bytes(bytes(32))
    with pytest.raises(StorageForeign, match="another key"):
        await open_and_close(tmp_path)


async def test_a_home_has_one_agent(tmp_path: Path) -> None:
    storage = Storage(tmp_path, SeededRng())
    with pytest.raises(StorageError) as refused:
        Storage(tmp_path, SeededRng())
    assert refused.value.code == "home_locked"
    assert str(os.getpid()) in refused.value.message
    await storage.close()
    await open_and_close(tmp_path)


async def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from exclave_agent.storage.lock import HomeLock\n"
        "HomeLock(pathlib.Path(sys.argv[1])); os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=30)
    await open_and_close(tmp_path)


async def test_a_home_belongs_to_one_log(tmp_path: Path) -> None:
    async with Home(tmp_path):
        pass
    from exclave_testing.homes import KEY

    storage = Storage(tmp_path, SeededRng())
    with pytest.raises(StorageError) as refused:
        storage.open_log("example.test/acme/other/e1", KEY)
    assert refused.value.code == "log_foreign"
    await storage.close()


async def test_the_log_can_be_read_beside_a_running_agent(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("d1"))
        assert read_log(tmp_path, lambda reader: reader.size()) == place.seq + 1
        (encoded,) = read_log(tmp_path, lambda reader: reader.private(place.seq))
        assert encoded


def test_reading_a_home_that_is_none_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no state\.db"):
        read_log(tmp_path, lambda reader: reader.size())
    assert not list(tmp_path.iterdir())


async def test_sqlite_utils_reads_what_we_wrote(tmp_path: Path) -> None:
    """The files stay open to the tools that people use: the `log` view reads as text."""
    async with Home(tmp_path) as home:
        await home.log.append(intent("d1"))
    rows = execute(state(tmp_path), "SELECT epoch, seq, type, decision FROM log")
    assert rows == [(1, 0, "GENESIS", None), (1, 1, "INTENT", "d1")]
    connection = sqlite3.connect(state(tmp_path))
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
