"""Reads lists of regular expressions, which take linear time (RE2 syntax)."""

from __future__ import annotations

from exclave_policy.fields import Fields
from exclave_policy.guards.patterns import fault


def read_patterns(fields: Fields, name: str, most: int) -> tuple[str, ...]:
    """At most `most` patterns, each of which compiles."""
    found = fields.names(name)
    node = fields.get(name)
    if node is not None and len(found) > most:
        fields.wrong(node, name, f"{len(found)} patterns are too many", f"at most {most}")
        return ()
    for item in found:
        wrong = fault(item.value)
        if wrong:
            fields.report.add(item.node, item.path, wrong)
    return tuple(item.value for item in found)
