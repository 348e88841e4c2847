"""Common Event Format (ArcSight CEF, revision 26): one line for each record, without syslog."""

from __future__ import annotations

from collections.abc import Iterator

from exclave_protocol.leaf import Leaf, LeafType

from .records import Bundle, Item, inner, items, level, word

SEVERITY = (1, 4, 6, 8)
"""CEF severity, 0 to 10, by `records.level`."""
MAX_VALUE = 1023
"""Characters: the least that readers keep of a custom string."""


def export(bundle: Bundle) -> Iterator[bytes]:
    """A line for each record."""
    verdict = str(bundle.report.verdict)
    for item in items(bundle):
        yield _line(bundle, item, verdict).encode() + b"\n"


def _line(bundle: Bundle, item: Item, verdict: str) -> str:
    leaf = item.leaf
    outcome = word(leaf, "outcome")
    name = f"{leaf.type} {outcome}" if outcome else str(leaf.type)
    head = ("Exclave", "audit", "1", str(leaf.type), name, str(SEVERITY[level(leaf)]))
    pairs = {
        "rt": str(leaf.time_ns // 1_000_000),
        "externalId": f"{leaf.log}#{leaf.seq}",
        "dvchost": item.log.agent or "coordinator",
        "dtz": "UTC",
        "act": word(leaf, "action"),
        "outcome": outcome,
        "reason": word(leaf, "reason") or word(leaf, "code"),
        "suser": _who(leaf),
        "cnt": inner(leaf.body, "leaves"),
        **_labelled(
            ("model", inner(leaf.body.get("model"), "name")),
            ("rule", inner(leaf.body.get("policy"), "rule")),
            ("decision", word(leaf, "decision")),
            ("leafHash", item.hash),
            ("tenant", bundle.manifest.tenant),
            ("verdict", verdict),
        ),
    }
    said = " ".join(f"{key}={_value(text)}" for key, text in pairs.items() if text)
    return "CEF:0|" + "|".join(map(_head, head)) + "|" + said


def _who(leaf: Leaf) -> str:
    if leaf.type is LeafType.OPERATOR:
        return word(leaf, "operator")
    return inner(leaf.body.get("actor"), "key")


def _labelled(*pairs: tuple[str, str]) -> dict[str, str]:
    """CEF's custom strings: `cs1` to `cs6`, each with what it is."""
    found: dict[str, str] = {}
    for number, (label, text) in enumerate(pairs, 1):
        if text:
            found |= {f"cs{number}Label": label, f"cs{number}": text}
    return found


def _head(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace("=", "\\=")


def _printable(text: str) -> str:
    """One line: what would end it is a space."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_VALUE])
