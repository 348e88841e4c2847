"""Where the tests' real language model lies: its absence is an error, never a skip."""

from __future__ import annotations

import os
from pathlib import Path

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """$EXCLAVE_TEST_GGUF, else the user's cache. Raises: FileNotFoundError saying how to get it."""
    named = os.environ.get("EXCLAVE_TEST_GGUF")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = (
        Path(named) if named else Path(cache).expanduser() / "exclave" / "models" / SMOLLM2
    ).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make test`, which fetches it")
    return path
