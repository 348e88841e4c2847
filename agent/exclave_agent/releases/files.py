"""Files that must be whole or absent: written aside, synced, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from exclave_agent.disk import sync_folder


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file; after a crash either the old or the new one is there. Raises: OSError."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
