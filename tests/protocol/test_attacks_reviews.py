"""What whoever holds the agent's own key may write about people: every act must be signed by a
reviewer who was registered, over what was shown, and must add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave_protocol.approval import Act, Stands
from exclave_protocol.bundle import LogSpec
from exclave_protocol.chosen import Filter
from exclave_protocol.evidence import Report, Verdict, verify_bundle
from exclave_protocol.leaf import decode_leaf
from exclave_testing.acts import Acts, ready, swapped
from exclave_testing.acts_cases import CHANGED, COUNTED, FORGED, HONEST, PLACES
from exclave_testing.attacks import attack
from exclave_testing.bundles import Log, altered, bundle_of, spec_of, witness_key, write
from exclave_testing.office import judged
from exclave_testing.standalone import standalone

PIN = witness_key().vkey


def verified(spec: LogSpec, path: Path, chosen: Filter | None = None) -> Report:
    whole = bundle_of([spec, spec_of(Log("").fill(4))])
    if chosen is not None:
        whole = replace(whole, filter=chosen)
    report = verify_bundle(write(replace(whole, page=True), path), witness_vkey=PIN)
    assert standalone().ask(path, PIN)["report"] == report.to_json(), "as one file it says the same"
    return report


def check(acts: Acts, path: Path, verdict: Verdict, words: str = "") -> Report:
    report = verified(spec_of(acts.log), path)
    said = "\n".join(step.detail for step in report.steps if not step.ok)
    assert report.verdict is verdict, report.to_text()
    assert words in said, said
    return report


@pytest.mark.parametrize("name", HONEST)
def test_honest_acts_hold(name: str, tmp_path: Path) -> None:
    check(HONEST[name](), tmp_path / "b.zip", Verdict.WITNESSED)


@attack("B69")
@pytest.mark.parametrize("name", FORGED)
def test_an_act_by_who_may_not(name: str, tmp_path: Path) -> None:
    make, words = FORGED[name]
    check(make(), tmp_path / "b.zip", Verdict.INVALID, words)


@attack("B70")
@pytest.mark.parametrize("name", CHANGED)
def test_an_act_that_says_something_else_than_was_signed(name: str, tmp_path: Path) -> None:
    make, words = CHANGED[name]
    check(make(), tmp_path / "b.zip", Verdict.INVALID, words)


@attack("B71")
@pytest.mark.parametrize("name", PLACES)
def test_an_act_that_is_about_other_records(name: str, tmp_path: Path) -> None:
    make, words = PLACES[name]
    check(make(), tmp_path / "b.zip", Verdict.INVALID, words)


@attack("B72")
@pytest.mark.parametrize("name", COUNTED)
def test_acts_that_do_not_add_up(name: str, tmp_path: Path) -> None:
    make, words = COUNTED[name]
    check(make(), tmp_path / "b.zip", Verdict.INVALID, words)


def test_what_lies_before_the_range_is_held_against_the_tree_alone(tmp_path: Path) -> None:
    acts = HONEST["two approve"]()
    last = len(acts.log.leaves) - 1
    cut = altered(spec_of(acts.log), first=last)
    kept = [item for item in cut.records if item[0] in (0, last - 1, last)]
    report = verified(altered(cut, records=kept), tmp_path / "b.zip")
    assert "rest on records that are not here" in report.to_text()
    forged = (
        ready()
        .act("anne")
        .act(
            "ben",
            stands=Stands.RELEASED,
            beside=["anne"],
            said=lambda r: replace(r, beside=tuple(map(swapped, r.beside))),
        )
    )
    report = verified(
        altered(
            spec_of(forged.log),
            first=last,
            records=[
                (seq, data)
                for seq, data in enumerate(forged.log.leaves)
                if seq in (0, last - 1, last)
            ],
        ),
        tmp_path / "c.zip",
    )
    assert report.verdict is Verdict.INVALID, report.to_text()


def test_acts_go_with_the_decision_that_they_are_about(tmp_path: Path) -> None:
    acts = HONEST["two approve"]()
    leaves = [decode_leaf(data) for data in acts.log.leaves]
    chosen = Filter(commitments=(acts.held.digest,))
    decisions = chosen.chosen(leaves)
    assert all(chosen.keeps(leaf, decisions) for leaf in leaves)
    nothing = frozenset[str]()
    left_out = [leaf.type for leaf in leaves if not chosen.keeps(leaf, nothing)]
    assert sorted(left_out) == ["APPROVAL", "APPROVAL", "INTENT", "RESULT"]


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_log_cut_anywhere_is_not_doubted(name: str) -> None:
    log = HONEST[name]().log
    leaves = [decode_leaf(data) for data in log.leaves]
    for first in range(1, len(leaves)):
        found = judged([leaves[0], *leaves[first:]], log.hashes).found
        assert found.problems == [], first


def test_what_is_over_stays_over_where_its_result_is_not_here() -> None:
    acts = HONEST["two approve"]()
    log = acts.act("anne", Act.REFUSE, Stands.REFUSED).log
    leaves = [decode_leaf(data) for data in log.leaves]
    for first in range(1, len(leaves) - 1):
        assert judged([leaves[0], *leaves[first:]], log.hashes).found.count, first
