"""Bundles about some decisions: each record is proven as ever, and what is not there is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_protocol import layout
from exclave_protocol.canonical import encode
from exclave_protocol.chosen import Filter
from exclave_protocol.errors import EvidenceError
from exclave_protocol.evidence import Report, Verdict, verify_bundle, verify_disclosure
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_testing.bundles import (
    Log,
    altered,
    bundle_of,
    rezip,
    secrets,
    spec_of,
    unzip,
    witness_key,
    write,
)

PIN = witness_key().vkey


def log() -> Log:
    """Three decisions by two models, and a sign of life."""
    made = Log("edge-1").fill(2)
    for number, (model, workflow) in enumerate((("big", "loans"), ("small", "loans"), ("big", ""))):
        seq = len(made.leaves)
        named = {"workflow": workflow} if workflow else {}
        made.append(
            LeafType.INTENT,
            {"decision": f"d{number}", "model": {"name": model}, **named},
            sd=[item.digest for item in secrets(made.origin, seq)],
        )
        body = {"decision": f"d{number}", "intent": str(seq), "model": {"name": model}}
        made.append(LeafType.RESULT, {**body, "outcome": "answered"})
    made.append(LeafType.HEARTBEAT, {"every": "3600"})
    return made


def bundle(chosen: Filter, path: Path) -> Path:
    made = log()
    leaves = [decode_leaf(data) for data in made.leaves]
    decisions = chosen.chosen(leaves)
    spec = spec_of(made)
    kept = [item for item in spec.records if chosen.keeps(leaves[item[0]], decisions)]
    own = spec_of(Log("").fill(4))
    whole = bundle_of([altered(spec, records=kept), own])
    return write(replace(whole, filter=chosen, page=True), path)


def seqs(path: Path) -> list[int]:
    files = unzip(path)
    lines = b"".join(files[n] for n in sorted(files) if "edge-1/e1/records" in n).splitlines()
    return [decode_leaf(line).seq for line in lines]


COMMITTED = secrets(log().origin, 6)[1].digest


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(models=("big",)), [0, 1, 2, 3, 6, 7, 8]),
        (Filter(models=("big", "small")), list(range(9))),
        (Filter(workflows=("loans",)), [0, 1, 2, 3, 4, 5, 8]),
        (Filter(models=("big",), workflows=("loans",)), [0, 1, 2, 3, 8]),
        (Filter(commitments=(COMMITTED,)), [0, 1, 6, 7, 8]),
        (Filter(models=("nobody",)), [0, 1, 8]),
    ],
    ids=["model", "models", "workflow", "both", "commitment", "none"],
)
def test_what_was_asked_for_is_there_and_verifies(
    tmp_path: Path, chosen: Filter, expected: list[int]
) -> None:
    path = bundle(chosen, tmp_path / "b.zip")
    assert seqs(path) == expected
    report = verify_bundle(path, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    left = 9 - len(expected)
    assert (f"{left} records of the range were not asked for" in report.to_text()) is (left > 0)
    counted = json.loads(unzip(path)[layout.COMPLETENESS])["logs"][0]
    assert (counted["missing"], counted["missing_count"]) == ([], str(left))
    assert (b"not all of them" in unzip(path)[layout.PAGE]) is (left > 0)


def judged(files: dict[str, bytes], path: Path) -> Report:
    return verify_bundle(rezip(files, path), witness_vkey=PIN)


def test_records_are_proven_as_ever(tmp_path: Path) -> None:
    files = unzip(bundle(Filter(models=("big",)), tmp_path / "b.zip"))
    name = "logs/edge-1/e1/records/000000000006.jsonl"
    files[name] = files[name].replace(b"answered", b"rejected")
    assert judged(files, tmp_path / "bad.zip").verdict is Verdict.INVALID


def test_a_whole_bundle_cannot_be_passed_off_as_one_about_some(tmp_path: Path) -> None:
    """Who leaves records out and says that nobody asked for them needs the coordinator's key, and
    the manifest says what was asked for."""
    path = bundle(Filter(models=("big",)), tmp_path / "b.zip")
    files = unzip(path)
    manifest = json.loads(files[layout.MANIFEST])
    assert manifest["filter"]["models"] == ["big"]
    manifest["filter"]["models"] = []
    files[layout.MANIFEST] = encode(manifest)
    assert judged(files, tmp_path / "bad.zip").verdict is Verdict.INVALID
    report = verify_bundle(rezip(files, tmp_path / "c.zip"), witness_vkey=PIN)
    assert "seq 4 to 5 of the range missing" in report.to_text()


@pytest.mark.parametrize("gone", [0, 8])
def test_what_is_no_decision_and_the_edges_stay(tmp_path: Path, gone: int) -> None:
    made = log()
    spec = spec_of(made)
    spec = altered(spec, records=[item for item in spec.records if item[0] not in (gone, 4, 5)])
    whole = replace(bundle_of([spec]), filter=Filter(models=("big",)))
    report = verify_bundle(write(whole, tmp_path / "b.zip"), witness_vkey=PIN)
    # Of the first it is known that it must be there; of the others there is only a word.
    expected = Verdict.INCOMPLETE if gone == 0 else Verdict.WITNESSED
    assert report.verdict is expected


def test_a_disclosure_is_held_to_a_filtered_bundle(tmp_path: Path) -> None:
    from exclave_protocol.opened import make_disclosure_file

    made = log()
    path = bundle(Filter(workflows=("loans",)), tmp_path / "b.zip")
    file = tmp_path / "d.json"
    # Even of a record that was left out: its hash is there.
    file.write_bytes(make_disclosure_file(made.leaves[6], [secrets(made.origin, 6)[0].encoded]))
    report = verify_disclosure(file, path, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"models": [], "workflows": []},
        {"models": "x", "workflows": [], "commitments": []},
        {"models": [1], "workflows": [], "commitments": []},
        {"models": [""], "workflows": [], "commitments": []},
        {"models": ["x" * 256], "workflows": [], "commitments": []},
        {"models": ["x"] * 65, "workflows": [], "commitments": []},
        {"models": [], "workflows": [], "commitments": ["x"] * 5001},
    ],
)
def test_what_is_no_filter(value: object) -> None:
    with pytest.raises(EvidenceError, match="filter"):
        Filter.from_json(value)  # type: ignore[arg-type]  # whatever a manifest says
