"""Exports of a bundle: each format is read back by somebody else's reader of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf.json_format import Parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from exclave_ctl.cli import main
from exclave_ctl.exports import cef, jsonl, oscal, otel
from exclave_ctl.exports.records import Bundle, opened
from exclave_protocol.canonical import JsonValue
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_testing.bundles import Log, bundle_of, spec_of, witness_key, write

PIN = witness_key().vkey


def log(hostile: str = "") -> Log:
    """A decision, a denial, an incident and a gap."""
    made = Log("edge-1").fill(2)
    policy: dict[str, JsonValue] = {"digest": "p" * 64, "rule": "r1"}
    model: dict[str, JsonValue] = {"name": "small", "digest": "m" * 64}
    body: dict[str, JsonValue] = {
        "decision": "d1",
        "action": "chat",
        "actor": {"key": "k1", "roles": ["analyst"]},
        "model": model,
        "policy": policy,
    }
    made.append(LeafType.INTENT, body)
    made.append(
        LeafType.RESULT,
        body | {"outcome": "answered", "intent": "2", "tokens_in": 7, "tokens_out": 5},
    )
    made.append(LeafType.RESULT, {"decision": "d2", "outcome": "denied", "reason": hostile or "no"})
    made.append(LeafType.INCIDENT, {"code": "head_forked", "detail": hostile or "a copy"})
    made.append(LeafType.GAP, {"reason": "silence", "seconds": "9000"})
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    logs = [spec_of(log()), spec_of(Log("").fill(3))]
    return write(bundle_of(logs), tmp_path / "b.zip")


def lines(path: Path, export: Callable[[Bundle], Iterator[bytes]]) -> list[bytes]:
    with opened(path, verify_bundle(path, witness_vkey=PIN)) as bundle:
        return b"".join(export(bundle)).splitlines()


# --- JSON lines -----------------------------------------------------------------------------------


def test_json_lines_are_flat_and_say_what_the_records_say(path: Path) -> None:
    rows = [json.loads(line) for line in lines(path, jsonl.export)]
    assert [(row["log"], row["seq"]) for row in rows[:7]] == [
        (log().origin, str(n)) for n in range(7)
    ]
    answered = rows[3]
    assert (answered["body.model.name"], answered["body.policy.rule"]) == ("small", "r1")
    assert answered["body.actor.roles"] == ["analyst"]
    assert {row["verdict"] for row in rows} == {"WITNESSED"}
    assert len({row["leaf_hash"] for row in rows}) == len(rows) == 10


# --- CEF ------------------------------------------------------------------------------------------


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """As the format's specification says: seven heads, then pairs; escapes undone."""
    parts = re.split(r"(?<!\\)((?:\\\\)*)\|", line, maxsplit=7)
    heads = [a + b for a, b in zip(parts[0:14:2], parts[1:14:2], strict=True)]
    pairs = re.findall(r"(\w+)=((?:\\.|[^=\\])*?)(?= \w+=|$)", parts[14])
    undo = re.compile(r"\\(.)")
    return [undo.sub(r"\1", head) for head in heads], {k: undo.sub(r"\1", v) for k, v in pairs}


def test_cef_lines_are_read_back(path: Path) -> None:
    found = [read_cef(line.decode()) for line in lines(path, cef.export)]
    heads, pairs = found[3]
    assert heads == ["CEF:0", "Exclave", "audit", "1", "RESULT", "RESULT answered", "1"]
    assert (pairs["act"], pairs["suser"], pairs["outcome"]) == ("chat", "k1", "answered")
    assert (pairs["cs1Label"], pairs["cs1"]) == ("model", "small")
    assert pairs["externalId"] == f"{log().origin}#3"
    assert [heads[6] for heads, _ in found[:7]] == ["1", "1", "1", "1", "4", "8", "6"]


# --- OpenTelemetry --------------------------------------------------------------------------------


def test_otlp_is_read_by_its_own_protobuf(path: Path) -> None:
    requests = [Parse(line, ExportLogsServiceRequest()) for line in lines(path, otel.export)]
    assert len(requests) == 2
    (resource,) = requests[0].resource_logs
    about = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert about["service.instance.id"] == log().origin
    assert about["exclave.bundle.verdict"] == "WITNESSED"
    records = resource.scope_logs[0].log_records
    assert len(records) == 7
    answered = records[3]
    known = {a.key: a.value for a in answered.attributes}
    assert known["gen_ai.response.model"].string_value == "small"
    assert known["gen_ai.usage.input_tokens"].int_value == 7
    assert known["exclave.policy.rule"].string_value == "r1"
    assert [v.string_value for v in known["exclave.actor.roles"].array_value.values] == ["analyst"]
    assert answered.time_unix_nano == decode_leaf(log().leaves[3]).time_ns
    assert [record.severity_text for record in records] == [
        *("INFO", "INFO", "INFO", "INFO", "INFO2", "ERROR", "WARN")
    ]


def test_a_long_log_is_told_in_batches(tmp_path: Path) -> None:
    path = write(bundle_of([spec_of(Log("edge-1").fill(250))]), tmp_path / "b.zip")
    requests = [json.loads(line) for line in lines(path, otel.export)]
    sizes = [len(r["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) for r in requests]
    assert sizes == [100, 100, 50]


# --- OSCAL ----------------------------------------------------------------------------------------


JUDGE = """
import sys
from oscal import OSCAL
for name in sys.argv[1:]:
    print(OSCAL.load(name).is_valid)
"""


def changed(document: dict[str, Any], place: str) -> dict[str, Any]:
    """With one fault."""
    made: dict[str, Any] = json.loads(json.dumps(document))
    results = made["assessment-results"]
    if place == "uuid":
        results["results"][0]["observations"][0]["uuid"] = "none"
    elif place == "state":
        results["results"][0]["findings"][0]["target"]["status"]["state"] = "maybe"
    else:
        del results["import-ap"]
    return made


def test_oscal_holds_nists_metaschema(path: Path, tmp_path: Path) -> None:
    """By somebody else's reader, which also finds what is wrong."""
    honest = json.loads(b"\n".join(lines(path, oscal.export)))
    files = []
    for name in ("honest", "uuid", "state", "plan"):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(honest if name == "honest" else changed(honest, name)))
        files.append(str(file))
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, *files],
        cwd=tmp_path,  # it unpacks the metaschema where it stands
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.split()[-4:] == ["True", "False", "False", "False"], done.stdout


def test_oscal_is_the_same_every_time_and_has_what_an_assessor_looks_at(path: Path) -> None:
    made = b"\n".join(lines(path, oscal.export))
    assert made == b"\n".join(lines(path, oscal.export))
    document = json.loads(made)["assessment-results"]
    (result,) = document["results"]
    titles = [each["title"] for each in result["observations"]]
    assert f"INCIDENT at seq 5 of {log().origin}" in titles
    assert f"GAP at seq 6 of {log().origin}" in titles
    assert not any("RESULT" in title for title in titles)
    (finding,) = result["findings"]
    assert finding["target"]["status"]["state"] == "satisfied"
    known = {each["uuid"] for each in result["observations"]}
    assert {each["observation-uuid"] for each in finding["related-observations"]} <= known
    assert len(known) == len(result["observations"])


# --- hostile records ------------------------------------------------------------------------------


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_no_record_breaks_a_format(tmp_path: Path, hostile: str) -> None:
    path = write(bundle_of([spec_of(log(hostile))]), tmp_path / "b.zip")
    assert len(lines(path, jsonl.export)) == len(lines(path, cef.export)) == 7
    for line in lines(path, cef.export):
        heads, pairs = read_cef(line.decode())
        assert heads[:4] == ["CEF:0", "Exclave", "audit", "1"]
        assert pairs["cs6"] == "WITNESSED"
    for line in lines(path, otel.export):
        Parse(line, ExportLogsServiceRequest())
    json.loads(b"\n".join(lines(path, oscal.export)))


# --- the command ----------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["audit", "export", *map(str, words)])


@pytest.mark.parametrize("name", ["otel", "cef", "jsonl", "oscal"])
def test_the_command_writes_each_format(path: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    done = run(path, "--as", name, "-o", out, "--witness-key", PIN)
    assert done.exit_code == 0, done.output
    assert "verdict WITNESSED" in done.output
    assert out.stat().st_size > 500
    again = run(path, "--as", name, "-o", out, "--witness-key", PIN)
    assert again.exit_code == 1
    assert "is not overwritten" in again.output
    assert run(path, "--as", name, "-o", out, "--witness-key", PIN, "--force").exit_code == 0
    assert not list(tmp_path.glob(".out*"))


def test_what_is_not_witnessed_is_refused_or_says_so(tmp_path: Path) -> None:
    made = log()
    spec = replace(spec_of(made), checkpoint=made.signed())
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    out = tmp_path / "out"
    words = (path, "--as", "jsonl", "-o", out, "--witness-key", PIN)
    refused = run(*words)
    assert refused.exit_code == 4
    assert "UNANCHORED" in refused.output
    assert not out.exists()
    assert run(*words, "--even-if-not-witnessed").exit_code == 0
    assert {json.loads(x)["verdict"] for x in out.read_text().splitlines()} == {"UNANCHORED"}


def test_a_key_that_is_none_is_said(path: Path, tmp_path: Path) -> None:
    done = run(path, "--as", "jsonl", "-o", tmp_path / "x", "--witness-key", "me")
    assert done.exit_code == 1
    assert "--witness-key" in done.output


def test_without_a_key_of_its_own_it_warns(path: Path, tmp_path: Path) -> None:
    done = run(path, "--as", "jsonl", "-o", tmp_path / "x")
    assert done.exit_code == 0
    assert "out of the bundle itself" in done.output
