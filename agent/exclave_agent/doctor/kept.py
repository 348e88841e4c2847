"""Reads from a home, without changing it, what the agent keeps about its releases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from exclave_agent.doctor.machine import Machine
from exclave_agent.doctor.site import Kept
from exclave_agent.releases.state import CHECKED_KEY, STATE_KEY, decode
from exclave_agent.storage.connect import check_header, check_version, open_reader, storage_error
from exclave_agent.storage.home import STATE_FILE
from exclave_agent.storage.migrations import state
from exclave_agent.system import CLOCK_FLOOR_KEY
from exclave_protocol.errors import ReleaseError
from exclave_protocol.release import ReleaseManifest

MAX_MANIFEST = 65_535


def artifact(home: Path, sha256: str) -> Path:
    """Where a verified file lies."""
    return home / "artifacts" / "sha256" / sha256


def read_kept(home: Path, machine: Machine) -> Kept | None:
    """None where the agent has no database yet. Raises: StorageError, PermissionError."""
    path = home / STATE_FILE
    if machine.stat(path) is None:
        return None
    check_header(path, state.KIND)
    check_version(path, state.KIND)
    try:
        with closing(open_reader(path)) as connection:
            rows = dict(connection.execute("SELECT key, value FROM state").fetchall())
    except sqlite3.Error as error:
        raise storage_error(error, "read the agent's state") from error
    releases = decode(bytes(rows[STATE_KEY])) if STATE_KEY in rows else None
    if releases is None:
        return Kept(floor_ns=_number(rows.get(CLOCK_FLOOR_KEY)))
    manifest = None
    if releases.current is not None:
        manifest = read_manifest(home, machine, releases.current.digest)
    return Kept(
        releases, _number(rows.get(CHECKED_KEY)), _number(rows.get(CLOCK_FLOOR_KEY)), manifest
    )


def read_manifest(home: Path, machine: Machine, digest: str) -> ReleaseManifest | None:
    """A release's manifest among the artifacts; None when it is gone or not one."""
    data = machine.read(artifact(home, digest), MAX_MANIFEST + 1)
    try:
        return None if data is None else ReleaseManifest.decode(data)
    except ReleaseError:
        return None


def _number(stored: bytes | None) -> int:
    return int(stored) if stored is not None and bytes(stored).isdigit() else 0
