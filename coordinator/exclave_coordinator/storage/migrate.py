"""Bring a database forwards: a copy first, then every step in one transaction, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, update
from sqlalchemy.exc import DBAPIError

from exclave_coordinator.errors import StorageError
from exclave_coordinator.storage import tables
from exclave_coordinator.storage.database import check_ours, open_engine, storage_error
from exclave_coordinator.storage.files import sync_folder
from exclave_coordinator.storage.migrations import BASELINE, MIGRATIONS, Migration
from exclave_coordinator.storage.snapshot import snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a database stands, and what would bring it up to date."""

    version: int
    target: int
    steps: tuple[Migration, ...]
    """Empty: it is up to date."""


def plan(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Plan:
    """What `migrate` would do; changes nothing. Raises: StorageForeign (newer), StorageError."""
    target = migrations[-1].version if migrations else BASELINE
    version = check_ours(path, target)
    return Plan(version, target, tuple(step for step in migrations if step.version > version))


def migrate(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Path | None:
    """Bring the database to the newest schema; returns the copy made before, None: nothing to do.

    Nobody else may have the database open: hold the home.
    MUST: the copy is on disk before the first change, and the steps and the version are one
    transaction: a crash leaves the old schema or the new one.
    Raises: StorageForeign (newer, damaged), StorageFull, StorageError; nothing was changed.
    """
    todo = plan(path, migrations)
    if not todo.steps:
        return None
    copy = path.with_name(f"{path.name}.before-{todo.target}")
    part = copy.with_name(f".{copy.name}.part")
    part.unlink(missing_ok=True)
    snapshot(path, part)
    part.replace(copy)
    sync_folder(copy.parent)
    engine = open_engine(path, writing=True, migrating=True)
    try:
        with engine.connect() as connection, connection.begin():
            _run(connection, todo)
    except DBAPIError as error:
        raise storage_error(error) from error
    finally:
        engine.dispose()
    log.info("database migrated to schema %d; the former one is %s", todo.target, copy.name)
    return copy


def _run(connection: Connection, todo: Plan) -> None:
    # Here, not above: a fifth of a second, once in a release.
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    with Operations.context(MigrationContext.configure(connection)) as operations:
        for step in todo.steps:
            log.info("schema %d: %s", step.version, step.what)
            step.run(operations)
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise StorageError(
            f"schema {todo.target} would leave a row of {broken[0]} without the one it refers to: "
            "nothing was changed; report this"
        )
    connection.execute(update(tables.schema_version).values(version=todo.target))
