"""Reviewers' acts, read from the page alone: the frozen logs, and the text they are about."""

import json
from pathlib import Path
from typing import Any

import pytest

from stranger.acts import faults
from stranger.leaves import Leaf, parse_leaf
from stranger.shown import shown
from stranger.tree import leaf_hash

VECTOR: Any = json.loads((Path(__file__).parents[1] / "vectors" / "approval.json").read_text())
CASES = {case["name"]: case for case in VECTOR["cases"]}


def read(case: Any) -> tuple[list[Leaf], list[bytes]]:
    data = [line.encode() for line in case["leaves"]]
    return [parse_leaf(each) for each in data], [leaf_hash(each) for each in data]


@pytest.mark.parametrize("name", CASES)
def test_the_frozen_logs(name: str) -> None:
    leaves, hashes = read(CASES[name])
    found = faults(leaves, lambda seq: hashes[seq] if seq < len(hashes) else None)
    assert (not found) is CASES[name]["holds"], found


def test_without_what_they_rest_on_their_hashes_are_held() -> None:
    leaves, hashes = read(CASES["two approve"])
    assert faults(leaves[-1:], hashes.__getitem__) == []
    assert faults(leaves[-1:], lambda seq: bytes(32)) != []


def test_the_text() -> None:
    said = VECTOR["text"]
    leaves, _ = read(CASES[said["of"]])
    acts = [leaves[int(seq)] for seq in said["acts"]]
    requires: Any = acts[0].body["requires"]
    intent, result = leaves[int(said["intent"])], leaves[int(said["result"])]
    made = shown(intent, result, acts, said["values"], said["answer"], requires)
    assert made == said["shown"]
