"""Which files of the home a database names: what a backup of it must hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exclave_coordinator.errors import StorageForeign
from exclave_coordinator.storage.database import read_only, storage_error
from exclave_protocol.errors import MetadataError
from exclave_protocol.tufmeta import load_targets


@dataclass(frozen=True, slots=True)
class Named:
    """Names relative to the home."""

    keys: frozenset[str]
    """Tenants' online keys."""
    artifacts: frozenset[str]
    """Targets of the published metadata."""


def named_files(database: Path) -> Named:
    """What the database, of this or an older schema, names.

    Raises: StorageForeign (its published metadata cannot be read), StorageError.
    """
    try:
        with closing(sqlite3.connect(read_only(database), uri=True)) as connection:
            tenants = [name for (name,) in connection.execute("SELECT name FROM tenants")]
            published = connection.execute(
                "SELECT tenant, content FROM tuf_files WHERE name = 'targets.json'"
            ).fetchall()
    except sqlite3.Error as error:
        raise storage_error(error) from error
    return Named(
        frozenset(
            f"keys/tenants/{tenant}/{role}.key"
            for tenant in tenants
            for role in ("snapshot", "timestamp")
        ),
        frozenset(
            f"artifacts/{tenant}/sha256/{sha256}"
            for tenant, content in published
            for sha256 in _digests(content)
        ),
    )


def _digests(content: bytes) -> set[str]:
    try:
        targets = load_targets(content).signed.targets
    except MetadataError as error:
        raise StorageForeign(
            "coordinator.db is damaged: it holds targets metadata that cannot be read"
        ) from error
    return {target.hashes["sha256"] for target in targets.values() if "sha256" in target.hashes}
