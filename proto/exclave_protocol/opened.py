"""Disclosure files: a tenant shows single fields of one record, and nothing of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import disclosure, layout
from .canonical import CanonicalError, JsonValue, decode, encode
from .disclosure import Disclosure
from .errors import DisclosureError, EvidenceError, LeafError
from .leaf import MAX_LEAF, Leaf, decode_leaf
from .report import Findings, Step, Verdict
from .tree import leaf_hash

SCHEMA = "exclave.disclosure/v1"
MAX_FILE = 64 * 1024 * 1024
_SHOWN = 2000
"""Characters of a value that a report repeats."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A disclosure file, read and held against its own leaf."""

    leaf: bytes
    record: Leaf
    disclosures: tuple[Disclosure, ...]

    @property
    def log(self) -> str:
        """Origin of the record's log."""
        return self.record.log

    @property
    def seq(self) -> int:
        """Place of the record in its log."""
        return self.record.seq


def _open(leaf: bytes, encoded: Sequence[str]) -> Opening:
    """Hold disclosures against the leaf that commits to them. Raises: EvidenceError."""
    try:
        record = decode_leaf(leaf)
        opened = tuple(disclosure.parse(item) for item in encoded)
    except (LeafError, DisclosureError) as error:
        raise EvidenceError(f"disclosure file: {error}") from None
    if not opened or len({item.name for item in opened}) != len(opened):
        raise EvidenceError("disclosure file: opens nothing, or one field twice")
    for item in opened:
        if item.digest not in record.sd:
            raise EvidenceError(
                f"disclosure file: the record did not commit to this value of {item.name}"
            )
    return Opening(leaf, record, opened)


def make_disclosure_file(leaf: bytes, encoded: Sequence[str]) -> bytes:
    """The file that shows some fields of one record; canonical JSON.

    `leaf`: its exact bytes. `encoded`: disclosures of the fields to show, no others.
    Raises: EvidenceError when they are not the leaf's, malformed, or none.
    """
    opening = _open(leaf, encoded)
    return encode(
        {
            "schema": SCHEMA,
            "log": opening.log,
            "seq": str(opening.seq),
            "leaf": disclosure.b64url(leaf),
            "disclosures": list(encoded),
        }
    )


def parse_opening(data: bytes) -> Opening:
    """Read a disclosure file. Raises: EvidenceError, whatever the bytes."""
    names = {"schema", "log", "seq", "leaf", "disclosures"}
    try:
        value = layout.fields(decode(data, limit=MAX_FILE), names, "disclosure file")
        if value["schema"] != SCHEMA:
            raise EvidenceError(f"disclosure file: schema is not {SCHEMA}")
        text = layout.text(value["leaf"], "leaf")
        if len(text) > MAX_LEAF * 2:
            raise EvidenceError("disclosure file: leaf too long")
        leaf = disclosure.unb64url(text)
    except (CanonicalError, DisclosureError) as error:
        raise EvidenceError(f"disclosure file: {error}") from None
    items = value["disclosures"]
    if type(items) is not list:
        raise EvidenceError("disclosure file: disclosures is not an array")
    opening = _open(leaf, [layout.text(item, "disclosures") for item in items])
    if value["log"] != opening.log or layout.integer(value["seq"], "seq") != opening.seq:
        raise EvidenceError("disclosure file: log or seq are not those of its leaf")
    return opening


def read_opening(path: Path) -> Opening:
    """Read a disclosure file from disk. Raises: OSError, EvidenceError."""
    with path.open("rb") as file:
        return parse_opening(file.read(MAX_FILE + 1))


def _value(value: JsonValue) -> str:
    """A value for people: ASCII, so that nothing in it can steer a terminal."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def check_opening(opening: Opening, known: bytes | None, number: str) -> Step:
    """The step for one disclosure; `known`: the leaf hash that the bundle's tree holds there."""
    found = Findings()
    place = f"{opening.log} seq {opening.seq}"
    if known is None:
        found.add(Verdict.INCOMPLETE, f"{place}: not under any checkpoint of this bundle")
    elif known != leaf_hash(opening.leaf):
        found.add(Verdict.INVALID, f"{place}: the bundle's tree holds another record there")
    shown = [f"{item.name} = {_value(item.value)}" for item in opening.disclosures]
    hidden = len(opening.record.sd) - len(shown)
    return found.step(
        number,
        f"the fields shown are those of {place}",
        "\n".join(shown),
        [f"up to {hidden} further fields of this record stay closed (some may be decoys)"],
    )
