"""The writer: the same bytes for the same logs, streamed, with the places of every file."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_protocol import layout
from exclave_protocol.bundle import BundleSpec, write_bundle
from exclave_protocol.byhand import VERIFY_MD
from exclave_protocol.errors import EvidenceError, NoteError
from exclave_protocol.evidence import Verdict, verify_bundle
from exclave_testing.bundles import (
    Log,
    altered,
    bundle_of,
    honest,
    honest_logs,
    spec_of,
    witness_key,
    write,
)


def packed(spec: BundleSpec) -> bytes:
    """The zip's bytes."""
    buffer = io.BytesIO()
    write_bundle(buffer, spec)
    return buffer.getvalue()


def test_equal_logs_give_equal_bytes() -> None:
    assert packed(bundle_of([spec_of(log) for log in honest_logs()])) == packed(
        bundle_of([spec_of(log) for log in honest_logs()])
    )


def test_counts_what_went_in() -> None:
    log = Log("edge-1").fill(10)
    spec = spec_of(log)
    records = [(seq, leaf) for seq, leaf in spec.records if seq not in (3, 4, 9)]
    written = write_bundle(io.BytesIO(), bundle_of([altered(spec, records=records)]))
    assert (written.logs, written.records, written.missing) == (1, 7, 3)


class Pipe(io.RawIOBase):
    """A sink that cannot seek, as a stream of gRPC messages cannot."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        chunk = bytes(data)  # type: ignore[call-overload]  # the zip writer passes bytes
        self.data += chunk
        return len(chunk)


def test_streams_to_a_sink_that_cannot_seek(tmp_path: Path) -> None:
    pipe = Pipe()
    write_bundle(pipe, bundle_of([spec_of(log) for log in honest_logs()]))  # type: ignore[arg-type]
    path = tmp_path / "b.zip"
    path.write_bytes(pipe.data)
    assert verify_bundle(path, witness_vkey=witness_key().vkey).verdict is Verdict.WITNESSED


def test_the_bytes_do_not_depend_on_the_python_that_wrote_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python before 3.11.4 wrote short sizes beside the long ones, and version 2.0."""
    written = io.BytesIO()
    write_bundle(written, bundle_of([spec_of(log) for log in honest_logs()]))

    def older(self: zipfile.ZipInfo, zip64: bool | None = None) -> bytes:
        raise AssertionError("the header is ours to write")

    monkeypatch.setattr(zipfile.ZipInfo, "FileHeader", older)
    again = io.BytesIO()
    write_bundle(again, bundle_of([spec_of(log) for log in honest_logs()]))
    assert again.getvalue() == written.getvalue()
    with zipfile.ZipFile(again) as bundle:
        assert {info.extract_version for info in bundle.infolist()} == {45}


def test_never_holds_more_than_one_file_of_records(tmp_path: Path) -> None:
    size = 2 * layout.SEGMENT_RECORDS + 10
    log = Log("edge-1").fill(size)
    spec = spec_of(log)
    out = io.BytesIO()
    lead: list[int] = []

    def records() -> Iterator[tuple[int, bytes]]:
        for seq, leaf in spec.records:
            lead.append(out.tell())
            yield seq, leaf

    write_bundle(out, bundle_of([altered(spec, records=records())]))
    assert lead[layout.SEGMENT_RECORDS + 1] > lead[0]
    path = tmp_path / "b.zip"
    path.write_bytes(out.getvalue())
    assert verify_bundle(path, witness_vkey=witness_key().vkey).verdict is Verdict.WITNESSED
    with zipfile.ZipFile(path) as bundle:
        names = [name for name in bundle.namelist() if name.endswith(".jsonl")]
    assert [name[-18:] for name in names] == [f"{n:012d}.jsonl" for n in (0, 1024, 2048)]


def test_a_damaged_leaf_is_shown_not_hidden(tmp_path: Path) -> None:
    log = Log("edge-1").fill(6)
    spec = spec_of(log)
    records = [(seq, b"garbage" if seq == 3 else leaf) for seq, leaf in spec.records]
    path = write(bundle_of([altered(spec, records=records)]), tmp_path / "b.zip")
    report = verify_bundle(path, witness_vkey=witness_key().vkey)
    assert report.verdict is Verdict.INVALID
    assert f"{log.origin} seq 3" in report.to_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent": "../x"}, "not a file of the layout"),
        ({"agent": "Edge"}, "not a file of the layout"),
        ({"hashes": [b"short"]}, "5 bytes at seq 0"),
        ({"hashes": []}, "0 where the checkpoint has 4"),
        ({"records": [(2, b"x"), (1, b"y")]}, "not in ascending order"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(changes: dict[str, object], reason: str) -> None:
    spec = altered(spec_of(Log("edge-1").fill(4)), **changes)
    with pytest.raises(EvidenceError, match=reason):
        write_bundle(io.BytesIO(), bundle_of([spec]))


def test_a_log_given_twice_is_refused() -> None:
    log = Log("edge-1").fill(4)
    with pytest.raises(EvidenceError, match="stands twice"):
        write_bundle(io.BytesIO(), bundle_of([spec_of(log), spec_of(log)]))


def test_a_checkpoint_that_does_not_parse_is_refused() -> None:
    spec = altered(spec_of(Log("edge-1").fill(4)), checkpoint=b"not a note")
    with pytest.raises(NoteError):
        write_bundle(io.BytesIO(), bundle_of([spec]))


@pytest.mark.parametrize(
    ("first", "end", "size", "seqs"),
    [
        (0, 0, 0, []),
        (0, 3, 3, [0, 1, 2]),
        (0, 2, 5, [0, 1, 2]),
        (1, 2, 5, [0, 1, 2]),
        (3, 4, 5, [0, 2, 3, 4]),
        (4, 5, 5, [0, 3, 4]),
        (5, 5, 5, [0, 4]),
        (0, 0, 5, [0]),
        (2, 2, 5, [0, 1, 2]),
        (6, 8, 5, [0, 5, 6, 7]),
    ],
)
def test_which_records_a_range_needs(first: int, end: int, size: int, seqs: list[int]) -> None:
    assert [seq for part in layout.wanted(first, end, size) for seq in part] == seqs


# --- VERIFY.md ------------------------------------------------------------------------------


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A bundle unpacked, with the scripts of VERIFY.md beside it."""
    with zipfile.ZipFile(honest(tmp_path / "b.zip")) as bundle:
        bundle.extractall(tmp_path)
    scripts = re.findall(r"```python\n(.*?)```", (tmp_path / "VERIFY.md").read_text(), re.DOTALL)
    for name, script in zip(("check.py", "sigs.py"), scripts, strict=True):
        (tmp_path / name).write_text(script)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script of VERIFY.md, without our packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("place", ["logs/edge-1/e1", "logs/edge-2/e2", "operators/e1"])
def test_the_tree_is_checked_by_hand(by_hand: Path, place: str) -> None:
    done = run(by_hand, "check.py", place)
    assert done.returncode == 0, done.stderr
    assert "records under the root of" in done.stdout


def test_a_forged_record_is_found_by_hand(by_hand: Path) -> None:
    records = by_hand / "logs/edge-1/e1/records/000000000000.jsonl"
    records.write_bytes(records.read_bytes().replace(b"answered", b"rejected", 1))
    done = run(by_hand, "check.py", "logs/edge-1/e1")
    assert done.returncode == 1
    assert "seq 3 differs" in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("key", ["keys/edge-1.e1.vkey", "keys/witness.vkey"])
def test_signatures_are_checked_by_hand(by_hand: Path, key: str) -> None:
    note = by_hand / "logs/edge-1/e1/checkpoint"
    done = run(by_hand, "sigs.py", str(note), key)
    assert done.returncode == 0, done.stderr
    note.write_bytes(note.read_bytes().replace(b"\n12\n", b"\n13\n"))
    assert run(by_hand, "sigs.py", str(note), key).returncode == 1


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_sums_are_sha256sums(by_hand: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"],
        cwd=by_hand,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_verify_md_is_ascii() -> None:
    assert VERIFY_MD.isascii()
