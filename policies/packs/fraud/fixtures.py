"""Writes fixtures.json: a few held-out rows for the demo and the tests.

    python policies/packs/fraud/fixtures.py > policies/packs/fraud/fixtures.json

The rows are the first PER_LABEL of each label, in the order of the data, whose feature vector
always has that label; the model has no say in the choice.
"""

from __future__ import annotations

import json
from typing import Any

import train

PER_LABEL = 5


def fixtures() -> dict[str, Any]:
    """The content of fixtures.json."""
    data = train.split(train.fetch())
    labels: dict[tuple[float, ...], set[int]] = {}
    for row, label in zip(data.test_rows, data.test_labels, strict=True):
        labels.setdefault(tuple(row), set()).add(label)
    rows = [
        {"features": list(row), "label": label}
        for label in (0, 1)
        for row in [row for row, seen in labels.items() if seen == {label}][:PER_LABEL]
    ]
    return {
        "model": "fraud",
        "input": "features",
        "about": "held-out rows of the data set that README.md names; label 1 is phishing",
        "rows": rows,
    }


if __name__ == "__main__":
    print(json.dumps(fixtures(), indent=2))
