"""JSON lines: one flat object for each record."""

from __future__ import annotations

import json
from collections.abc import Iterator

from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import format_time

from .records import Bundle, flat, items


def export(bundle: Bundle) -> Iterator[bytes]:
    """A line for each record. What the record says keeps its names, below `body`."""
    verdict = str(bundle.report.verdict)
    for item in items(bundle):
        leaf = item.leaf
        row: dict[str, JsonValue] = {
            "tenant": bundle.manifest.tenant,
            "agent": item.log.agent,
            "log": leaf.log,
            "epoch": str(leaf.epoch),
            "seq": str(leaf.seq),
            "time": format_time(leaf.time_ns),
            "type": str(leaf.type),
            "leaf_hash": item.hash,
            "verdict": verdict,
        }
        row |= dict(flat(dict(leaf.body), "body"))
        yield json.dumps(row, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
