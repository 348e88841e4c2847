"""Reads a bundle for an export: which records, and how each is told flat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave_protocol import layout
from exclave_protocol.archive import Archive
from exclave_protocol.canonical import JsonValue
from exclave_protocol.errors import LeafError
from exclave_protocol.layout import LogEntry, Manifest
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf
from exclave_protocol.report import Report
from exclave_protocol.tree import leaf_hash
from exclave_protocol.walk import read_records

WARNING = frozenset({LeafType.GAP, LeafType.RECOVERY, LeafType.OVERRIDE, LeafType.ERASURE})
"""Types that somebody should look at; an INCIDENT is worse."""
BAD = frozenset({"failed", "invalid", "unknown"})
"""Outcomes of a RESULT by which something did not work."""
REFUSED = frozenset({"denied", "held", "refused"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle and what its verification said."""

    archive: Archive
    manifest: Manifest
    report: Report


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a log's range."""

    log: LogEntry
    leaf: Leaf
    hash: str
    """RFC 6962 leaf hash, lower-case hex."""


@contextmanager
def opened(path: Path, report: Report) -> Iterator[Bundle]:
    """A bundle that was verified. Raises: OSError, EvidenceError."""
    with path.open("rb") as file:
        archive = Archive(file, layout.KNOWN_FILE.fullmatch)
        manifest = Manifest.from_bytes(archive.read(layout.MANIFEST, layout.MAX_JSON))
        yield Bundle(archive, manifest, report)


def items(bundle: Bundle) -> Iterator[Item]:
    """Every record of the ranges that can be read, logs in the manifest's order, by seq."""
    for log in bundle.manifest.logs:
        for record in read_records(bundle.archive, log):
            if log.first <= record.seq < log.end:
                try:
                    leaf = decode_leaf(record.data)
                except LeafError:
                    continue  # the verification has named it
                yield Item(log, leaf, leaf_hash(record.data).hex())


def flat(value: JsonValue, name: str) -> Iterator[tuple[str, JsonValue]]:
    """An object's fields by their path, `a.b`; arrays stay arrays."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def inner(value: JsonValue | Mapping[str, JsonValue], name: str) -> str:
    """A field of an object as text; "" where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return "" if found is None or isinstance(found, dict | list) else str(found)


def word(leaf: Leaf, name: str) -> str:
    """A field of the body as text; "" where there is none."""
    return inner(leaf.body, name)


def level(leaf: Leaf) -> int:
    """How much it asks for attention: 0 a matter of course, 1 a refusal, 2 a warning, 3 bad."""
    outcome = word(leaf, "outcome")
    if leaf.type is LeafType.INCIDENT:
        return 3
    if leaf.type in WARNING or outcome in BAD:
        return 2
    return 1 if outcome in REFUSED else 0
