"""The recognisers on a labelled corpus: floors under what `make bench-redaction` reports."""

from __future__ import annotations

from exclave_policy.guards.national import SHAPES
from exclave_policy.guards.personal import BY_SHAPE, find
from exclave_testing.corpus import COUNTRIES, lines


def test_precision_and_recall_have_floors() -> None:
    found = right = labels = 0
    for line in lines(3, 500):
        findings = {(f.kind, f.start, f.end) for f in find(line.text, BY_SHAPE, COUNTRIES)}
        found += len(findings)
        right += len(findings & set(line.spans))
        labels += len(line.spans)
    assert labels > 250
    assert right / found >= 0.97
    assert right / labels >= 0.93


def test_the_corpus_is_the_same_each_time_and_half_of_it_is_clean() -> None:
    once = list(lines(3, 500))
    assert once == list(lines(3, 500)) != list(lines(4, 500))
    assert sum(not line.spans for line in once) >= 200
    assert set(COUNTRIES) <= SHAPES.keys()
