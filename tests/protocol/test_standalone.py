"""The verifier in one file: it is whole, the same wherever it is made, and runs where nothing of
ours is installed."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import exclave_protocol
from exclave_protocol import layout
from exclave_protocol.bundle import write_bundle
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.report import Verdict
from exclave_protocol.standalone import MODULES, verifier
from exclave_testing.bundles import bundle_of, honest_logs, spec_of, witness_key
from exclave_testing.standalone import libraries

SOURCES = Path(exclave_protocol.__file__).parent
PIN = witness_key().vkey


def imported() -> set[str]:
    """The modules of this package that the command imports, found by reading them."""
    seen, todo = {"__init__"}, ["__main__"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((SOURCES / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                todo += [node.module] if node.module else [each.name for each in node.names]
    return seen


def test_it_holds_what_the_command_imports_and_no_more() -> None:
    assert set(MODULES) == imported()


def test_it_is_the_same_every_time_and_holds_the_sources_as_they_are(tmp_path: Path) -> None:
    data = verifier()
    assert data == verifier()
    (tmp_path / "v.pyz").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "v.pyz") as archive:
        assert all(each.date_time == (1980, 1, 1, 0, 0, 0) for each in archive.infolist())
        for name in MODULES:
            source = (SOURCES / f"{name}.py").read_bytes()
            assert archive.read(f"exclave_protocol/{name}.py") == source


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """A bundle with the verifier in it."""
    with (tmp_path / "bundle.zip").open("wb") as out:
        spec = bundle_of([spec_of(log) for log in honest_logs()])
        write_bundle(out, replace(spec, verifier=verifier()))
    return tmp_path / "bundle.zip"


def run(archive: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """As an auditor would, in a Python without anything but `cryptography`."""
    start = (
        "import runpy, sys; libraries, archive = sys.argv[1:3]; sys.argv[:] = sys.argv[2:]; "
        "sys.path[:] = [*(p for p in sys.path if 'site-packages' not in p), libraries]; "
        "runpy.run_path(archive, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, libraries(folder), archive, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_one_in_a_bundle_verifies_the_bundle(carried: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(carried) as archive:
        archive.extract(layout.VERIFIER, tmp_path)
    done = run(tmp_path / layout.VERIFIER, tmp_path / "l", carried, "--witness-key", PIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: WITNESSED" in done.stdout
    assert run(tmp_path / layout.VERIFIER, tmp_path / "l", tmp_path / "absent").returncode == 2


def test_its_digest_is_told_and_it_is_nobodys_word(carried: Path) -> None:
    report = verify_bundle(carried, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED
    (note,) = [note for step in report.steps for note in step.notes if "publisher" in note]
    assert hashlib.sha256(verifier()).hexdigest() in note
