"""What a bundle has besides its records: index, listings, signature; made again to be believed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_protocol import layout
from exclave_protocol.bundle import BundleSpec
from exclave_protocol.canonical import JsonValue, encode
from exclave_protocol.dsse import Envelope
from exclave_protocol.evidence import Report, Verdict, verify_bundle
from exclave_protocol.index import COLUMNS, MAX_CELL, Index
from exclave_protocol.layout import LogEntry
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, decode_leaf
from exclave_protocol.note import SigningKey, sign, split_note
from exclave_protocol.proof import Proof
from exclave_protocol.tally import Tally
from exclave_testing.attacks import attack
from exclave_testing.bundles import (
    STEP,
    Log,
    bundle_of,
    honest_logs,
    private_key,
    rezip,
    signed,
    spec_of,
    unzip,
    witness_key,
    write,
)

PIN = witness_key().vkey
Files = dict[str, bytes]


def spec() -> BundleSpec:
    return replace(bundle_of([spec_of(log) for log in honest_logs()]), page=True)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Of a bundle that has everything."""
    return unzip(write(spec(), tmp_path / "honest.zip"))


def judged(files: Files, folder: Path, *, resum: bool = True) -> Report:
    return verify_bundle(rezip(files, folder / "b.zip", resum=resum), witness_vkey=PIN)


def said(report: Report) -> str:
    return "\n".join(step.detail for step in report.steps if not step.ok)


def test_the_index_has_a_line_for_each_record(files: Files, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(files[layout.INDEX].decode())))
    leaves = [decode_leaf(leaf) for log in honest_logs() for leaf in log.leaves]
    assert [(row["log"], row["seq"], row["type"]) for row in rows] == [
        (leaf.log, str(leaf.seq), str(leaf.type)) for leaf in leaves
    ]
    assert {row["outcome"] for row in rows} == {"", "answered"}
    assert judged(files, tmp_path).verdict is Verdict.WITNESSED


def leaf(body: dict[str, JsonValue]) -> Leaf:
    return Leaf("exclave.test/acme/edge-1/e1", 1, 1, NO_PREV, LeafType.INTENT, 0, dict(body))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_no_name_breaks_the_index(text: str) -> None:
    lines: list[bytes] = []
    index = Index(lines.append)
    index.add(leaf({"action": text, "actor": {"key": "x"}}))
    header, row = csv.reader(io.StringIO(b"".join(lines).decode(), newline=""))
    assert tuple(header) == COLUMNS
    assert len(row) == len(COLUMNS)
    cell = row[COLUMNS.index("action")]
    assert not cell.startswith(("=", "+", "-", "@"))
    assert len(cell) <= MAX_CELL + 1
    assert row[COLUMNS.index("actor")] == "x"


def test_models_policies_and_events_are_listed(files: Files) -> None:
    log = Log("edge-1").fill(2)
    policy = {"digest": "p" * 64, "rule": "r"}
    log.append(LeafType.INTENT, {"decision": "d", "policy": policy, "release": "q" * 64})
    model = {"name": "small", "digest": "m" * 64}
    for _ in range(2):
        log.append(LeafType.RESULT, {"decision": "d", "model": model, "policy": policy})
    log.append(LeafType.GAP, {"reason": "silence", "seconds": "9"})
    tally = Tally(LogEntry("edge-1", 1, log.origin, "", 6, 6, 0, 6))
    for seq, data in enumerate(log.leaves):
        tally.add(seq, decode_leaf(data))
    from exclave_protocol.listings import listings

    (found,) = json.loads(listings([tally]))["logs"]
    assert found["models"] == [
        {"name": "small", "digest": "m" * 64, "first": "3", "last": "4", "records": "2"}
    ]
    assert found["policies"] == [{"digest": "p" * 64, "first": "2", "last": "4", "records": "3"}]
    assert found["releases"] == [{"digest": "q" * 64, "first": "2", "last": "2", "records": "1"}]
    (event,) = found["events"]
    assert (event["seq"], event["type"]) == ("5", "GAP")
    assert "seconds 9" in event["detail"]


def edit_index(files: Files) -> None:
    files[layout.INDEX] = files[layout.INDEX].replace(b"answered", b"denied", 1)


def edit_listings(files: Files) -> None:
    value = json.loads(files[layout.LISTINGS])
    value["logs"][0]["events_left"] = "7"
    files[layout.LISTINGS] = encode(value)


@attack("B64")
@pytest.mark.parametrize("edit", [edit_index, edit_listings])
def test_what_is_made_of_the_records_cannot_lie(
    files: Files, tmp_path: Path, edit: Callable[[Files], None]
) -> None:
    edit(files)
    report = judged(files, tmp_path)
    assert report.verdict is Verdict.INVALID
    assert "records" in said(report)


@pytest.mark.parametrize("name", [layout.INDEX, layout.LISTINGS])
def test_a_bundle_can_do_without_them(files: Files, tmp_path: Path, name: str) -> None:
    del files[name]
    assert judged(files, tmp_path).verdict is Verdict.WITNESSED


# --- who stands for it ----------------------------------------------------------------------------


def by_another_key(files: Files) -> None:
    files[layout.SIGNED] = signed(files, Log("edge-1"))


def of_another_bundle(files: Files) -> None:
    files[layout.SIGNED] = signed({layout.MANIFEST: b"{}", layout.SUMS: files[layout.SUMS]})


def of_other_files(files: Files) -> None:
    files[layout.SIGNED] = signed({**files, layout.SUMS: b""})


def of_another_type(files: Files) -> None:
    stated = Envelope.decode(files[layout.SIGNED]).payload
    envelope = Envelope.signed("text/plain", stated, [Log("").private])
    files[layout.SIGNED] = envelope.encode()


def garbled(files: Files) -> None:
    files[layout.SIGNED] = b"{"


def removed(files: Files) -> None:
    del files[layout.SIGNED]


@attack("B65")
@pytest.mark.parametrize(
    "change",
    [by_another_key, of_another_bundle, of_other_files, of_another_type, garbled, removed],
)
def test_the_manifest_is_signed_by_who_keeps_the_operators_log(
    files: Files, tmp_path: Path, change: Callable[[Files], None]
) -> None:
    change(files)
    report = judged(files, tmp_path, resum=False)
    assert report.verdict is Verdict.INVALID
    assert layout.SIGNED in said(report)


@attack("B66")
def test_what_no_log_signs_is_signed_all_the_same(files: Files, tmp_path: Path) -> None:
    """When agents were last seen, and the range that was asked for: whoever alters that needs the
    coordinator's key, and whoever has it cannot deny what it wrote."""
    value = json.loads(files[layout.MANIFEST])
    value["agents"][0]["last_seen"] = "0"
    kept = files[layout.SIGNED]
    files[layout.MANIFEST] = encode(value)
    report = judged(files, tmp_path)  # SHA256SUMS fits, and so would the signature
    files = unzip(tmp_path / "b.zip") | {layout.SIGNED: kept}
    report = judged(files, tmp_path, resum=False)
    assert report.verdict is Verdict.INVALID
    assert "of another manifest" in said(report)


def test_without_the_operators_log_nobody_signs(tmp_path: Path) -> None:
    path = write(bundle_of([spec_of(Log("edge-1").fill(12))]), tmp_path / "b.zip")
    report = verify_bundle(path, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED
    assert "hearsay" in report.to_text()


# --- silence --------------------------------------------------------------------------------------


def test_silence_beyond_the_pace_that_was_said_is_counted(tmp_path: Path) -> None:
    log = Log("edge-1").fill(2)
    at = STEP
    for pause in (60, 60, 119, 121, 60):
        at += pause
        log.append(LeafType.HEARTBEAT, {"every": "60"}, at=at)
    path = write(bundle_of([spec_of(log)]), tmp_path / "b.zip")
    (counted,) = json.loads(unzip(path)[layout.COMPLETENESS])["logs"]
    assert (counted["heartbeats"], counted["every"]) == ("5", "60")
    assert counted["silences"] == [["5", "121"]]
    report = verify_bundle(path, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED
    assert "first for 121 s before seq 5" in report.to_text()


# --- on record ----------------------------------------------------------------------------------

PROOF = "logs/edge-1/e1/cosigned.proof"


def proof_removed(files: Files) -> None:
    del files[PROOF]


def proof_of_another(files: Files) -> None:
    files[PROOF] = files["logs/edge-2/e1/cosigned.proof"]


def proof_by_another_key(files: Files) -> None:
    made = Proof.parse(files[PROOF])
    text = split_note(made.checkpoint)[0]
    key = SigningKey(text.partition("\n")[0], private_key("stranger"))
    files[PROOF] = replace(made, checkpoint=sign(text, [key])).encode()


def proof_of_another_place(files: Files) -> None:
    made = Proof.parse(files[PROOF])
    files[PROOF] = replace(made, hashes=(bytes(32),)).encode()


def proof_garbled(files: Files) -> None:
    files[PROOF] = b"c2sp.org/tlog-proof@v1\n"


@attack("B67", "B68")
@pytest.mark.parametrize(
    "change",
    [
        proof_removed,
        proof_of_another,
        proof_by_another_key,
        proof_of_another_place,
        proof_garbled,
    ],
)
def test_a_cosignature_must_be_on_record(
    files: Files, tmp_path: Path, change: Callable[[Files], None]
) -> None:
    change(files)
    report = judged(files, tmp_path)
    assert report.verdict is Verdict.UNANCHORED
    assert "secret" in said(report)


def test_every_bit_of_the_proof_counts(files: Files, tmp_path: Path) -> None:
    whole = files[PROOF]
    for place in range(0, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 1
        files[PROOF] = bytes(data)
        assert judged(files, tmp_path).verdict is Verdict.UNANCHORED, place
