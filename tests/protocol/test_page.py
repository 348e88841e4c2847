"""report.html: what the records say, for people; whatever else it says is found, and nothing that
somebody wrote into a record becomes part of the page."""

from __future__ import annotations

import random
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol import layout
from exclave_protocol.bundle import write_bundle
from exclave_protocol.canonical import JsonValue
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.layout import LogEntry, Manifest
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType
from exclave_protocol.page import render
from exclave_protocol.report import Verdict
from exclave_protocol.summary import MAX_EVENTS, MAX_NAMES, OTHERS, Count, Summary
from exclave_protocol.tally import Tally
from exclave_testing.attacks import attack
from exclave_testing.bundles import bundle_of, honest_logs, rezip, spec_of, unzip, witness_key
from exclave_testing.standalone import standalone

PIN = witness_key().vkey
DAY_NS = 86_400 * 10**9
VOID = {"meta", "br"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    with path.open("wb") as out:
        spec = bundle_of([spec_of(log) for log in honest_logs()])
        write_bundle(out, replace(spec, page=True))
    return path


def entry(records: int = 10) -> LogEntry:
    origin = "exclave.test/acme/edge-1/e1"
    return LogEntry("edge-1", 1, origin, "vkey", records, records, 0, records)


def leaf(seq: int, kind: LeafType, time_ns: int = DAY_NS, **body: JsonValue) -> Leaf:
    return Leaf("exclave.test/acme/edge-1/e1", 1, seq, NO_PREV, kind, time_ns, body)


def page(*leaves: Leaf, manifest: Manifest | None = None) -> str:
    tally = Tally(entry(len(leaves)))
    for each in leaves:
        tally.add(each.seq, each)
    tally.finish()
    made = manifest or Manifest("acme", "exclave.test", DAY_NS, 0, 0, "wkey", (), (tally.log,))
    return render(made, [tally]).decode("ascii")


class Reader(HTMLParser):
    """Every tag closed in order; what it says, and with which attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


# --- in a bundle ---------------------------------------------------------------------------------


def test_a_page_that_is_what_the_records_give_is_fine(bundle: Path) -> None:
    report = verify_bundle(bundle, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED
    assert standalone().ask(bundle, PIN)["report"] == report.to_json()


@attack("B18")
def test_a_lying_page_is_found(bundle: Path, tmp_path: Path) -> None:
    files = unzip(bundle)
    whole = files[layout.PAGE]
    chance = random.Random(6)
    for _ in range(40):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(7)
        files[layout.PAGE] = bytes(data)
        forged = rezip(files, tmp_path / "forged.zip")
        report = verify_bundle(forged, witness_vkey=PIN)
        assert report.verdict is Verdict.INVALID
        assert "not the page that the records give" in report.to_text()
    files[layout.PAGE] = whole + b"<p>All is well.</p>"
    assert verify_bundle(rezip(files, tmp_path / "f.zip"), witness_vkey=PIN).verdict is (
        Verdict.INVALID
    )


def test_a_bundle_can_do_without_it(bundle: Path, tmp_path: Path) -> None:
    files = unzip(bundle)
    del files[layout.PAGE]
    report = verify_bundle(rezip(files, tmp_path / "b.zip"), witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED


# --- what it says --------------------------------------------------------------------------------


def test_it_says_what_the_records_say() -> None:
    said = " ".join(
        read(
            page(
                leaf(0, LeafType.GENESIS),
                leaf(
                    1,
                    LeafType.RESULT,
                    outcome="answered",
                    model={"name": "small"},
                    policy={"rule": "let-staff"},
                ),
                leaf(2, LeafType.RESULT, 2 * DAY_NS, outcome="denied", policy={"rule": None}),
                leaf(3, LeafType.ERASURE, reason="subject", leaves="12"),
                leaf(4, LeafType.OVERRIDE, what="legal_hold", stands=True, reference="CASE-7"),
                leaf(5, LeafType.OPERATOR, action="BanAgent", outcome="ok"),
            )
        ).text
    )
    for words in (
        "No record of the range is missing",
        "1970-01-02",
        "1970-01-03",
        "answered",
        "denied",
        "small",
        "let-staff",
        "(none)",
        "leaves 12, reason subject",
        "reference CASE-7, stands yes, what legal_hold",
        "BanAgent: ok",
    ):
        assert words in said


def test_what_is_missing_is_said() -> None:
    tally = Tally(entry(10))
    tally.add(0, leaf(0, LeafType.GENESIS))
    tally.add(7, leaf(7, LeafType.INTENT, decision="d"))
    tally.finish()
    made = Manifest("acme", "exclave.test", DAY_NS, 0, 0, "w", (), (tally.log,))
    said = " ".join(read(render(made, [tally]).decode()).text)
    assert "8 records of the range are missing" in said and "1 to 6, 8 to 9" in said


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=1>', "</table>", "&lt;", "\u202eevil"]


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_record_becomes_part_of_the_page(name: str) -> None:
    result = leaf(0, LeafType.RESULT, outcome=name, model={"name": name}, policy={"rule": name})
    incident = leaf(1, LeafType.INCIDENT, code=name, detail=name)
    operator = leaf(2, LeafType.OPERATOR, action=name, outcome=name)
    manifest = Manifest(
        "acme", name, DAY_NS, 2**62, 2**63 - 1, name, (layout.AgentEntry(name, 0),), ()
    )
    for html in (page(result, incident, operator), render(manifest, []).decode("ascii")):
        reader = read(html)
        assert reader.tags <= {
            *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "code"),
            *("table", "tr", "th", "td", "div"),
        }
        assert reader.attributes <= {
            *("lang", "charset", "http-equiv", "content", "name", "class", "style"),
        }
    assert "default-src" in html and "http://" not in html and "https://" not in html


@settings(max_examples=100)
@given(st.text(max_size=60), st.sampled_from(list(LeafType)))
def test_whatever_is_in_a_record(text: str, kind: LeafType) -> None:
    read(page(leaf(0, kind, outcome=text, code=text, action=text, model={"name": text})))


# --- bounds --------------------------------------------------------------------------------------


def test_a_million_names_and_events_are_held_in_little() -> None:
    summary = Summary()
    for number in range(3 * MAX_NAMES):
        summary.add(leaf(number, LeafType.RESULT, outcome=f"o{number}" + "x" * 60_000))
        summary.add(leaf(number, LeafType.INCIDENT, code="c" * 60_000))
    assert len(summary.outcomes.names) == MAX_NAMES + 1
    assert summary.outcomes.names[OTHERS] == 2 * MAX_NAMES
    assert max(map(len, summary.outcomes.names)) <= 120
    assert len(summary.events) == MAX_EVENTS
    assert summary.events_left == 3 * MAX_NAMES - MAX_EVENTS


def test_equals_are_ranked_by_name() -> None:
    count = Count()
    for name in ("b", "a", "c", "c"):
        count.add(name)
    assert count.ranked() == [("c", 2), ("a", 1), ("b", 1)]
