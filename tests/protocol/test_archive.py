"""A zip made to harm its reader is refused with the reason, and nothing else happens."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import deque
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave_protocol import archive, layout
from exclave_protocol.archive import Archive
from exclave_protocol.errors import EvidenceError
from exclave_protocol.evidence import Verdict, verify_bundle
from exclave_testing.attacks import attack
from exclave_testing.bundles import honest, rezip, unzip, witness_key

KNOWN = layout.KNOWN_FILE.fullmatch


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    """A zip of these files, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in files:
            out.writestr(zipfile.ZipInfo(name), data, method)
    return buffer


def read_all(data: bytes) -> None:
    """Every byte of every file."""
    opened = Archive(io.BytesIO(data), KNOWN)
    for name in opened.names:
        deque(opened.chunks(name), maxlen=0)


def refused(data: bytes, reason: str) -> None:
    """The zip must be refused at once, or at the latest when it is read."""
    with pytest.raises(EvidenceError, match=reason):
        read_all(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_what_was_written(method: int) -> None:
    data = bytes(range(256)) * 1000
    opened = Archive(zipped((layout.MANIFEST, data), method=method), KNOWN)
    assert opened.names == [layout.MANIFEST]
    assert opened.read(layout.MANIFEST, len(data)) == data
    with pytest.raises(EvidenceError, match="the limit is 10"):
        opened.read(layout.MANIFEST, 10)
    with pytest.raises(EvidenceError, match="missing"):
        opened.read(layout.SUMS, 10)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"PK\5\6" + b"\0" * 17, b"\0" * 4096])
def test_not_a_zip(data: bytes) -> None:
    refused(data, "not a zip")


def test_a_name_that_stands_twice() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        buffer = zipped((layout.MANIFEST, b"one"), (layout.MANIFEST, b"two"))
    refused(buffer.getvalue(), "manifest.json: stands twice")


def test_a_name_cut_at_nul() -> None:
    data = zipped(("manifest.jsonXevil", b"x")).getvalue().replace(b"jsonXevil", b"json\0evil")
    refused(data, "not a file of an audit bundle")


def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked() -> None:
    buffer = zipped((layout.MANIFEST, b"\0" * 20_000_000))
    assert len(buffer.getvalue()) < 30_000
    with pytest.raises(EvidenceError, match="zip bomb"):
        Archive(buffer, KNOWN)


@attack("B39")
def test_a_bomb_that_lies_about_its_size_is_cut_off() -> None:
    data = bytearray(zipped((layout.MANIFEST, b"\0" * 20_000_000)).getvalue())
    entry = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, entry + 24, 1000)
    struct.pack_into("<I", data, 22, 1000)
    opened = Archive(io.BytesIO(bytes(data)), KNOWN)
    received: list[bytes] = []
    with pytest.raises(EvidenceError, match="longer than the zip says"):
        received.extend(opened.chunks(layout.MANIFEST))
    assert sum(map(len, received)) <= 1000


def test_a_total_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL", 99)
    refused(zipped((layout.MANIFEST, b"x" * 100)).getvalue(), "unpacks to more than 99")


def test_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    data = zipped((layout.MANIFEST, b"x"), (layout.SUMS, b"x")).getvalue()
    refused(data, "2 files: the limit is 1")


@attack("B38")
def test_two_names_for_the_same_bytes() -> None:
    data = bytearray(zipped((layout.MANIFEST, b"x" * 50), (layout.SUMS, b"x" * 50)).getvalue())
    second = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, second + 42, 0)
    # Newer Pythons find some overlaps themselves, when a file is opened; ours is found first.
    refused(bytes(data), "overlaps another file")


def test_bytes_before_the_first_file() -> None:
    refused(b"#!/bin/sh\n" + zipped((layout.MANIFEST, b"x")).getvalue(), "misplaced")


def test_a_comment() -> None:
    buffer = zipped((layout.MANIFEST, b"x"))
    with zipfile.ZipFile(buffer, "a") as out:
        out.comment = b"hello"
    refused(buffer.getvalue(), "comment")


@attack("B40")
def test_no_byte_outside_the_content_carries_a_message(tmp_path: Path) -> None:
    """Headers, directory and end: every one of their bytes is fixed by names and contents."""
    path = honest(tmp_path / "b.zip", size=4)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as bundle:
        infos, begin = bundle.infolist(), bundle.start_dir
    places = list(range(begin, len(data)))
    for info in infos:
        start = info.header_offset
        sizes = struct.unpack_from("<2H", data, start + 26)
        places += range(start, start + 30 + sum(sizes))
    unseen = []
    for place in places:
        altered = bytearray(data)
        altered[place] ^= 1
        try:
            read_all(bytes(altered))
        except EvidenceError:
            continue
        unseen.append(place)
    assert unseen == []


def test_bytes_between_two_files() -> None:
    first = zipped((layout.MANIFEST, b"x")).getvalue()
    data = bytearray(zipped((layout.MANIFEST, b"x"), (layout.SUMS, b"x")).getvalue())
    place = first.index(b"PK\1\2")
    second, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
    struct.pack_into("<I", data, second + 42, place + 6)
    struct.pack_into("<I", data, end + 16, struct.unpack_from("<I", data, end + 16)[0] + 6)
    data[place:place] = b"hidden"
    refused(bytes(data), "misplaced")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(method: int) -> None:
    refused(zipped((layout.MANIFEST, b"x"), method=method).getvalue(), "compression method")


def test_an_encrypted_file() -> None:
    data = bytearray(zipped((layout.MANIFEST, b"x")).getvalue())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    refused(bytes(data), "encrypted")


def test_a_local_header_that_says_another_name() -> None:
    data = zipped((layout.MANIFEST, b"x")).getvalue().replace(b"manifest", b"MANIFEST", 1)
    refused(data, "its header in the zip is altered")


def test_a_wrong_crc_shows_after_the_content() -> None:
    data = bytearray(zipped((layout.MANIFEST, b"content"), method=zipfile.ZIP_STORED).getvalue())
    place = data.index(b"content")
    data[place] ^= 1
    opened = Archive(io.BytesIO(bytes(data)), KNOWN)
    chunks = opened.chunks(layout.MANIFEST)
    assert next(chunks) == b"bontent"
    with pytest.raises(EvidenceError, match="CRC"):
        next(chunks)


def test_lines_are_bounded_and_end_in_a_newline() -> None:
    opened = Archive(
        zipped(
            (layout.MANIFEST, b"one\ntwo\n"), (layout.SUMS, b"x" * 300_000), ("VERIFY.md", b"a")
        ),
        KNOWN,
    )
    assert list(opened.lines(layout.MANIFEST, 3)) == [b"one", b"two"]
    with pytest.raises(EvidenceError, match="limit 2"):
        list(opened.lines(layout.MANIFEST, 2))
    with pytest.raises(EvidenceError, match="more than 1000"):
        list(opened.lines(layout.SUMS, 1000))
    with pytest.raises(EvidenceError, match="no newline"):
        list(opened.lines(layout.BY_HAND, 1000))


def test_blocks_leave_no_remainder() -> None:
    opened = Archive(zipped((layout.MANIFEST, bytes(96)), (layout.SUMS, bytes(100))), KNOWN)
    assert list(opened.blocks(layout.MANIFEST, 32)) == [bytes(32)] * 3
    with pytest.raises(EvidenceError, match="4 bytes beyond"):
        list(opened.blocks(layout.SUMS, 32))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return honest(tmp_path_factory.mktemp("honest") / "b.zip", size=6)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_altered_byte_of_content_goes_unseen(
    bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    original = bundle.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(1, 255))
    altered = bytearray(original)
    altered[place] ^= value
    target = tmp_path / "altered.zip"
    target.write_bytes(altered)
    report = verify_bundle(target, witness_vkey=witness_key().vkey)
    if report.verdict is Verdict.WITNESSED:
        # Times and attributes of the zip itself: no file's name or content.
        assert unzip(target) == unzip(bundle)
    else:
        assert report.verdict is Verdict.INVALID
        assert any(step.detail for step in report.steps if not step.ok)


@given(data=st.data())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_yield_a_report(bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(bundle.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        size = data.draw(st.integers(0, 2000))
        content[place : place + size] = data.draw(st.binary(max_size=40))
        if not content:
            break
    target = tmp_path / "garbled.zip"
    target.write_bytes(content)
    report = verify_bundle(target)
    if report.verdict is Verdict.WITNESSED:
        assert unzip(target) == unzip(bundle)


SIGNED = [
    # manifest.json states the question (range, time of writing) and registration.json the
    # coordinator's file on the agent: their freely chosen parts are under no signature.
    "completeness.json",
    "VERIFY.md",
    "keys/edge-1.e1.vkey",
    "keys/witness.vkey",
    *(
        f"{place}/{name}"
        for place in ("logs/edge-1/e1", "logs/edge-2/e2", "operators/e1")
        for name in ("checkpoint", "hashes", "records/000000000000.jsonl")
    ),
]


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_forger_who_sums_anew_is_found_wherever_he_writes(
    bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(SIGNED))
    files = unzip(bundle)
    content = bytearray(files[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    if bytes(content) == files[name]:
        return
    files[name] = bytes(content)
    path = rezip(files, tmp_path / "forged.zip")
    report = verify_bundle(path, witness_vkey=witness_key().vkey)
    assert report.verdict in (Verdict.INVALID, Verdict.UNANCHORED, Verdict.INCOMPLETE)
    if name.endswith("checkpoint") and report.verdict is not Verdict.INVALID:
        # The witness's line may have been turned into one by a key nobody knows.
        assert report.verdict is Verdict.UNANCHORED
