"""Migrations: a copy first, then all steps or none, whatever kills them; newer is never touched."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import BigInteger, Column, String, text

from exclave_coordinator.commands import EXIT_CONFIG, main
from exclave_coordinator.errors import StorageError, StorageForeign, StorageFull
from exclave_coordinator.home import hold
from exclave_coordinator.storage import database, tables
from exclave_coordinator.storage.database import APPLICATION_ID, Database, check_ours, open_engine
from exclave_coordinator.storage.migrate import migrate, plan
from exclave_coordinator.storage.migrations import BASELINE, MIGRATIONS, Migration
from exclave_testing.coordinator import new_home

if TYPE_CHECKING:
    from alembic.operations import Operations

BASELINE_SQL = Path(__file__).with_name("schema-1.sql")


def baseline(path: Path) -> Path:
    """A database as the first release made it, with a tenant and its token."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(BASELINE_SQL.read_text())
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("INSERT INTO schema_version VALUES (1)")
        connection.execute("INSERT INTO tenants VALUES ('acme',1,'','',1,1,1,1,1,'',0,'','')")
        connection.execute("INSERT INTO tokens VALUES ('t','acme','','a',1,2,0,'','',0)")
        connection.commit()
    path.chmod(0o600)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Such a database."""
    return baseline(tmp_path / "coordinator.db")


def shape(path: Path) -> Any:
    """Tables, columns, keys and indices as SQLite knows them."""
    with closing(sqlite3.connect(path)) as connection:
        names = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE sql != ''")]

        def pragma(what: str, name: str) -> Any:
            return sorted(connection.execute(f"PRAGMA {what}('{name}')").fetchall(), key=repr)

        return {
            name: (
                pragma("table_xinfo", name),
                pragma("foreign_key_list", name),
                [r[2:] for r in pragma("index_list", name)],
                pragma("index_xinfo", name),
            )
            for name in names
        }


def content(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        names = [r[0] for r in connection.execute(query)]
        return {n: connection.execute(f"SELECT * FROM {n}").fetchall() for n in names}


def _add_notes(op: Operations) -> None:
    """A column, a table and, as SQLite cannot alter it in place, a table built anew."""
    op.add_column("tenants", Column("note", String(64), nullable=False, server_default=""))
    op.create_table("notes", Column("at", BigInteger, primary_key=True))
    with op.batch_alter_table("tenants") as batch:
        batch.alter_column("name", type_=String(64), existing_type=String(63))


def _fail(op: Operations) -> None:
    op.execute("CREATE TABLE half (x)")
    op.execute("SELECT no_such_function()")


NOTES = Migration(2, "adds notes", _add_notes)
LATER = Migration(tables.SCHEMA_VERSION + 1, "adds notes", _add_notes)
"""What a later version of the program would bring."""


def test_the_baseline_is_recognised(old: Path) -> None:
    assert plan(old, ()).version == BASELINE == check_ours(old)
    assert plan(old, (NOTES,)).steps == (NOTES,)


def test_steps_count_up_to_the_schema_of_the_tables() -> None:
    versions = [BASELINE, *(step.version for step in MIGRATIONS)]
    assert versions == list(range(BASELINE, tables.SCHEMA_VERSION + 1))


def test_a_migrated_database_is_as_a_fresh_one(old: Path, tmp_path: Path) -> None:
    migrate(old)
    fresh = tmp_path / "fresh.db"
    database.create(fresh)
    assert shape(old) == shape(fresh)
    engine = open_engine(old)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()
    assert check_ours(old) == tables.SCHEMA_VERSION


def test_schema_2_touches_no_row_that_was_there(old: Path) -> None:
    before = content(old)
    migrate(old, MIGRATIONS[:1])
    after = content(old)
    assert {name: after[name] for name in before if name != "schema_version"} == {
        name: rows for name, rows in before.items() if name != "schema_version"
    }
    new = {"cosigned_leaves", "cosigned_state", "outside_logs", "outside_cosignatures"}
    assert after.keys() - before.keys() == new
    assert not any(after[name] for name in new)


def test_a_step_changes_the_schema_and_keeps_the_rows(old: Path) -> None:
    before = content(old)
    copy = migrate(old, (NOTES,))
    assert copy == old.with_name("coordinator.db.before-2")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert content(copy) == before
    assert check_ours(copy) == 1
    assert check_ours(old, 2) == 2
    after = content(old)
    assert after["tenants"] == [(*before["tenants"][0], "")]
    assert after["tokens"] == before["tokens"]  # its foreign key outlived the table built anew
    assert after["notes"] == []
    assert migrate(old, (NOTES,)) is None
    names = {p.name for p in old.parent.iterdir()} - {"coordinator.db-wal", "coordinator.db-shm"}
    assert names == {"coordinator.db", "coordinator.db.before-2"}


def test_a_step_that_fails_undoes_those_before_it(old: Path) -> None:
    before = shape(old), content(old)
    with pytest.raises(StorageError, match="nothing changed"):
        migrate(old, (NOTES, Migration(3, "fails", _fail)))
    assert (shape(old), content(old)) == before


def test_rows_that_would_refer_to_nothing_are_refused(old: Path) -> None:
    before = content(old)
    step = Migration(2, "forgets", lambda op: op.execute(text("DELETE FROM tenants")))
    with pytest.raises(StorageError, match="tokens"):
        migrate(old, (step,))
    assert content(old) == before


def test_a_newer_database_is_refused_and_not_touched(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE schema_version SET version = 9")
        connection.commit()
    before = old.read_bytes()
    for attempt in (lambda: migrate(old, (NOTES,)), lambda: Database(old)):
        with pytest.raises(StorageForeign, match="version 9"):
            attempt()
    assert old.read_bytes() == before
    assert not old.with_name("coordinator.db.before-2").exists()


def test_an_older_database_is_not_opened_as_it_is(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    with pytest.raises(StorageForeign, match="exclave-coordinator migrate"):
        Database(old)


def test_a_damaged_database_is_not_migrated(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'tokens'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with old.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)
    with pytest.raises(StorageForeign, match="damaged"):
        migrate(old, (NOTES,))
    left = {p.name for p in old.parent.iterdir() if not p.name.endswith(("-wal", "-shm"))}
    assert left == {"coordinator.db"}


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        path = baseline(place / "coordinator.db")
        (place / "filler").write_bytes(bytes(800_000))
        before = content(path)
        with pytest.raises(StorageFull):
            migrate(path, (NOTES,))
        assert content(path) == before
        assert not path.with_name("coordinator.db.before-2").exists()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


KILLED = """
import sys, time
from pathlib import Path
from exclave_coordinator.storage.migrate import migrate
from exclave_coordinator.storage.migrations import Migration

def say(word):
    print(word, flush=True)
    if word == sys.argv[2]:
        time.sleep(600)

def first(op):
    op.execute("CREATE TABLE first (data BLOB)")
    for _ in range(100):  # more than the page cache holds: half of it reaches the disk early
        op.execute("INSERT INTO first VALUES (zeroblob(100000))")
    op.execute("ALTER TABLE tenants ADD COLUMN note TEXT")
    say("first")

def second(op):
    op.execute("DROP TABLE evidence")
    say("second")

migrate(Path(sys.argv[1]), (Migration(2, "first", first), Migration(3, "second", second)))
say("done")
"""


@pytest.mark.parametrize("word", ["first", "second", "done"])
def test_kill_9_leaves_the_old_schema_or_the_new_one(old: Path, word: str) -> None:
    before = shape(old), content(old)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(old), word], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert word in iter(lambda: process.stdout.readline().strip(), ""), "it ended before"  # type: ignore[union-attr]  # asserted above
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert content(old.with_name("coordinator.db.before-3")) == before[1]
    if word == "done":
        assert check_ours(old, 3) == 3
        assert "evidence" not in shape(old)
        return
    assert (shape(old), content(old)) == before
    migrate(old, (NOTES,))  # and it can be brought forwards from there
    assert check_ours(old, 2) == 2


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home(tmp_path / "home")

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["migrate", "--home", str(home.path), *words])

    assert f"schema {tables.SCHEMA_VERSION}: up to date" in run("--check").output
    # As a later version of the program would have it.
    for function in (plan, migrate):

        def later(path: Path, steps: Any = (LATER,), function: Any = function) -> Any:
            return function(path, steps)

        monkeypatch.setattr(f"exclave_coordinator.storage.migrate.{function.__name__}", later)
    due = run("--check")
    assert due.exit_code == 3
    assert f"schema {LATER.version}: adds notes" in due.output
    assert check_ours(home.database) == tables.SCHEMA_VERSION
    with hold(home):
        busy = run()
        assert busy.exit_code == 1
        assert "stop it first" in busy.output
    done = run()
    assert done.exit_code == 0, done.output
    assert re.search(
        rf"migrated to schema {LATER.version}; the former database is .*before-{LATER.version}",
        done.output,
    )
    assert check_ours(home.database, LATER.version) == LATER.version
    monkeypatch.undo()
    refused = run()
    assert refused.exit_code == 1
    assert "run the version that wrote it" in refused.output
    nowhere = CliRunner().invoke(main, ["migrate", "--home", str(tmp_path / "none")])
    assert nowhere.exit_code == 1
    assert "missing" in nowhere.output


def test_serve_does_not_start_on_a_newer_schema(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    with closing(sqlite3.connect(home.database)) as connection:
        connection.execute(f"UPDATE schema_version SET version = {LATER.version}")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = home.database.read_bytes()
    command = [sys.executable, "-m", "exclave_coordinator.cli", "serve", "--home", str(home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == EXIT_CONFIG  # or the manager would start it for ever
    assert done.stderr.startswith(f"Error: coordinator.db has schema version {LATER.version}")
    assert home.database.read_bytes() == before
    assert not (home.run / "lock").exists()
