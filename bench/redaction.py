"""How much personal data the recognisers find in a labelled corpus, and how much that is none.

The corpus is synthetic (tests/exclave_testing/corpus.py): own templates in six languages, numbers
with right checksums, and near misses. The recognisers were worked on with seed 1; what is reported
is seed 2. A finding counts where it overlaps a label of its kind by more than half of both.
"""

from __future__ import annotations

import time
from collections import Counter
from importlib.metadata import version
from typing import Any

from common import Bar, write_results

from exclave_policy.guards.personal import BY_SHAPE, find
from exclave_testing.corpus import COUNTRIES, Line, lines

SEED, COUNT = 2, 4000
PACKAGES = ("phonenumbers", "python-stdnum", "schwifty")


def judged(line: Line) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Found rightly, found wrongly, missed: by kind."""
    hit: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    left = list(line.spans)
    for each in find(line.text, BY_SHAPE, COUNTRIES):
        label = next(
            (s for s in left if s[0] == each.kind and _same(each.start, each.end, s)), None
        )
        if label is None:
            wrong[each.kind] += 1
        else:
            left.remove(label)
            hit[each.kind] += 1
    return hit, wrong, Counter(kind for kind, _, _ in left)


def _same(start: int, end: int, label: tuple[str, int, int]) -> bool:
    common = min(end, label[2]) - max(start, label[1])
    return common * 2 > max(end - start, label[2] - label[1])


def measure(seed: int, count: int) -> tuple[list[dict[str, Any]], float, float]:
    """Rows by kind, and precision and recall over all."""
    hit: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for line in lines(seed, count):
        for total, part in zip((hit, wrong, missed), judged(line), strict=True):
            total.update(part)
    rows = []
    for kind in (*BY_SHAPE, "all"):
        good, bad, lost = (
            (total.total() if kind == "all" else total[kind]) for total in (hit, wrong, missed)
        )
        precision = good / (good + bad) if good + bad else 1.0
        recall = good / (good + lost) if good + lost else 1.0
        both = precision + recall
        rows.append(
            {
                "kind": kind,
                "labels": good + lost,
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / both if both else 0.0,
            }
        )
    return rows, rows[-1]["precision"], rows[-1]["recall"]


def speed() -> float:
    """KB of text a second, all kinds, all countries of the corpus."""
    texts = [line.text for line in lines(SEED, 1000)]
    started = time.perf_counter()
    for text in texts:
        find(text, BY_SHAPE, COUNTRIES)
    return sum(map(len, texts)) / 1000 / (time.perf_counter() - started)


def main() -> None:
    """Measure, write the results."""
    rows, precision, recall = measure(SEED, COUNT)
    empty = sum(not line.spans for line in lines(SEED, COUNT))
    rows.append({"lines": COUNT, "lines_without": empty, "kb_per_s": speed()})
    bars = [
        Bar("precision", precision, 0.97, "higher"),
        Bar("recall", recall, 0.95, "higher"),
    ]
    write_results("redaction", rows, bars, {name: version(name) for name in PACKAGES})


if __name__ == "__main__":
    main()
