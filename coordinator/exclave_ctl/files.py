"""Writing files so that secrets stay private and a crash leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from exclave_ctl.errors import CtlError


def create(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not exist yet, with `mode` from its first byte, fsynced.

    Raises: CtlError (it exists).
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise CtlError(
            f"{path} exists and is not overwritten", "move it away or choose another name"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, limit: int, what: str) -> bytes:
    """A file of at most `limit` bytes. Raises: CtlError naming it as `what`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CtlError(f"cannot read {what} {path}: {error.strerror}") from error
    if len(data) > limit:
        raise CtlError(f"{what} {path} is longer than {limit} bytes")
    return data


def refuse_exposed(path: Path, what: str) -> None:
    """Raises: CtlError when others than its owner may read or write the file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return  # whoever reads it says so better
    if mode & 0o077:
        raise CtlError(
            f"{what} {path} may be read by others (mode {mode:04o})",
            f"chmod 600 {path}; if others could really read it, make a new key",
        )


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object of at most 1 MiB. Raises: CtlError."""
    try:
        value = json.loads(read(path, 1 << 20, what))
    except ValueError as error:
        raise CtlError(f"{what} {path} is not JSON") from error
    if not isinstance(value, dict):
        raise CtlError(f"{what} {path} must hold a JSON object")
    return value


def json_bytes(value: object) -> bytes:
    """Readable JSON with a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
