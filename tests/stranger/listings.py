"""Section 5 of the page: index.csv and listings.json, made of the records again."""

from collections.abc import Sequence

from stranger.leaves import Leaf
from stranger.logs import LogRead
from stranger.wire import canonical

COLUMNS = (
    "log",
    "seq",
    "time",
    "type",
    "decision",
    "action",
    "outcome",
    "reason",
    "actor",
    "model",
    "rule",
    "release",
    "data_class",
)
EVENTS = frozenset(
    (
        "OVERRIDE",
        "APPROVAL",
        "GAP",
        "RECOVERY",
        "INCIDENT",
        "ERASURE",
        "DISCLOSURE",
        "EPOCH",
        "KEY_ROTATE",
    )
)
MOST_NAMES, MOST_EVENTS, WIDTH = 500, 1_000, 120


def _inner(body: dict[str, object], name: str, key: str) -> object:
    value = body.get(name)
    return value.get(key) if isinstance(value, dict) else None


def cell(value: object) -> str:
    """One cell."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    shown = "".join(char if char.isprintable() else " " for char in str(value)[:WIDTH])
    shown = "'" + shown if shown.startswith(("=", "+", "-", "@")) else shown
    return '"' + shown.replace('"', '""') + '"' if "," in shown or '"' in shown else shown


def row(leaf: Leaf) -> list[object]:
    """The cells of a record."""
    body = leaf.body
    actor = _inner(body, "actor", "key")
    return [
        leaf.log,
        leaf.seq,
        leaf.time_text,
        leaf.kind,
        *(body.get(name) for name in ("decision", "action", "outcome", "reason")),
        actor if actor is not None else body.get("operator"),
        _inner(body, "model", "name"),
        _inner(body, "policy", "rule"),
        _inner(body, "release", "digest"),
        body.get("data_class"),
    ]


def index(logs: Sequence[LogRead]) -> bytes:
    """The bytes of index.csv."""
    rows: list[list[object]] = [list(COLUMNS)]
    rows += [row(leaf) for log in logs for leaf in log.in_range]
    return "".join(",".join(cell(value) for value in line) + "\r\n" for line in rows).encode()


def _group(leaves: Sequence[Leaf], field: str, named: bool) -> list[dict[str, str]]:
    """Where each model, policy or release stands."""
    groups: dict[tuple[str, str], list[int]] = {}
    for leaf in leaves:
        digest, name = _inner(leaf.body, field, "digest"), _inner(leaf.body, field, "name")
        if isinstance(name if named else digest, str):
            key = (str(name) if named else "", digest if isinstance(digest, str) else "")
            groups.setdefault(key, []).append(leaf.seq)
    return [
        ({"name": key[0]} if named else {})
        | {"digest": key[1], "first": str(seqs[0]), "last": str(seqs[-1])}
        | {"records": str(len(seqs))}
        for key, seqs in sorted(groups.items())
    ][:MOST_NAMES]


def detail(leaf: Leaf) -> str:
    """What a record says of itself, on one line."""
    shown = {True: "yes", False: "no"}

    def word(value: object) -> object:
        return shown[value] if isinstance(value, bool) else "(none)" if value == "" else value

    parts = [
        f"{name} {word(value)}"
        for name, value in sorted(leaf.body.items())
        if isinstance(value, str | int)
    ]
    return ", ".join(parts)[:WIDTH]


def _events(leaves: Sequence[Leaf]) -> dict[str, object]:
    events = [leaf for leaf in leaves if leaf.kind in EVENTS]
    shown = [
        {
            "detail": detail(leaf),
            "seq": str(leaf.seq),
            "time": leaf.time_text,
            "type": leaf.kind,
        }
        for leaf in events[:MOST_EVENTS]
    ]
    return {"events": shown, "events_left": str(len(events) - len(shown))}


def listings(logs: Sequence[LogRead]) -> bytes:
    """The bytes of listings.json."""
    out = []
    for log in logs:
        results = [leaf for leaf in log.in_range if leaf.kind == "RESULT"]
        out.append(
            _events(log.in_range)
            | {
                "models": _group(results, "model", True),
                "origin": log.entry.origin,
                "policies": _group(log.in_range, "policy", False),
                "releases": _group(log.in_range, "release", False),
            }
        )
    return canonical({"logs": out, "schema": "exclave.listings/v1"})
