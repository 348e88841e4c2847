"""index.csv: a line for each record of a bundle's range, for spreadsheets and scripts (RFC 4180).

Names in it are whatever callers and policies chose, so what a spreadsheet would take for a formula
is made text, and lines end where they end.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from .canonical import JsonValue
from .leaf import Leaf, format_time

COLUMNS = (
    *("log", "seq", "time", "type", "decision", "action", "outcome", "reason", "actor", "model"),
    *("rule", "release", "data_class"),
)
MAX_CELL = 120
"""Characters of a cell that are kept."""
_FORMULA = ("=", "+", "-", "@")


class Index:
    """Feed the records of each log of the manifest, in its order, by ascending seq."""

    def __init__(self, sink: Callable[[bytes], object] = lambda line: None) -> None:
        """`sink` is given each line."""
        self._sink = sink
        self._digest = sha256()
        self._say(",".join(COLUMNS))

    def add(self, leaf: Leaf) -> None:
        """One record's line."""
        body = leaf.body
        cells = (
            leaf.log,
            str(leaf.seq),
            format_time(leaf.time_ns),
            leaf.type,
            *(_cell(body.get(name)) for name in ("decision", "action", "outcome", "reason")),
            _cell(_inner(body.get("actor"), "key") or body.get("operator")),
            _cell(_inner(body.get("model"), "name")),
            _cell(_inner(body.get("policy"), "rule")),
            _cell(_inner(body.get("release"), "digest") or body.get("release")),
            _cell(body.get("data_class")),
        )
        self._say(",".join(cells))

    def hexdigest(self) -> str:
        """SHA-256 of all lines so far."""
        return self._digest.hexdigest()

    def _say(self, line: str) -> None:
        data = line.encode("utf-8") + b"\r\n"
        self._digest.update(data)
        self._sink(data)


def _inner(value: JsonValue, name: str) -> JsonValue:
    return value.get(name) if isinstance(value, dict) else None


def _cell(value: JsonValue) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value)[:MAX_CELL])
    if text.startswith(_FORMULA):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in '",') else text
