"""The bytes of the audit formats are frozen: a change here is a change of format."""

from __future__ import annotations

import json

import pytest

from exclave_protocol.checkpoint import open_checkpoint
from exclave_protocol.leaf import decode_leaf, encode_leaf
from exclave_protocol.note import VerifyKey, open_note
from exclave_testing.vectors import FOLDER, build

BUILT = build()


@pytest.mark.parametrize("name", sorted(BUILT))
def test_frozen_bytes(name: str) -> None:
    frozen = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert BUILT[name] == frozen


def test_frozen_leaves_are_read() -> None:
    for vector in json.loads((FOLDER / "leaf.json").read_text(encoding="utf-8")):
        data = vector["leaf"].encode()
        leaf = decode_leaf(data)
        assert encode_leaf(leaf) == data
        assert (str(leaf.seq), str(leaf.time_ns)) == (vector["seq"], vector["time_ns"])


def test_frozen_checkpoint_is_opened() -> None:
    vector = json.loads((FOLDER / "checkpoint.json").read_text(encoding="utf-8"))
    log, witness = (VerifyKey.parse(vector[f"{who}_vkey"]) for who in ("log", "witness"))
    note = vector["cosigned"].encode()
    assert open_checkpoint(note, log).text() == vector["text"]
    assert [s.timestamp for s in open_note(note, [witness]).verified] == [1_800_000_000]
