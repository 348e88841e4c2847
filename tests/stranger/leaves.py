"""Section 2 of the page: one record."""

from dataclasses import dataclass

from stranger.notes import ORIGIN
from stranger.wire import Refused, decimal, items, parse, record, text, time_ns, unb64url, unhex

TYPES = frozenset(
    (
        "GENESIS",
        "EPOCH",
        "BOOT",
        "INTENT",
        "RESULT",
        "OVERRIDE",
        "APPROVAL",
        "POLICY_CHANGE",
        "MODEL_CHANGE",
        "HEARTBEAT",
        "GAP",
        "RECOVERY",
        "KEY_ROTATE",
        "ERASURE",
        "DISCLOSURE",
        "EXPORT",
        "INCIDENT",
        "OPERATOR",
        "COSIGNED",
    )
)
OWN = {"OPERATOR": "_operators", "COSIGNED": "_witness"}


@dataclass(frozen=True)
class Leaf:
    """A record, decoded."""

    log: str
    epoch: int
    seq: int
    prev: bytes
    kind: str
    time: int
    time_text: str
    body: dict[str, object]
    sd: tuple[str, ...]


def _digests(fields: dict[str, object]) -> tuple[str, ...]:
    if "sd" not in fields:
        return ()
    digests = [text(item) for item in items(fields["sd"])]
    if not digests or digests != sorted(set(digests)):
        raise Refused("sd is empty, not sorted, or repeats")
    if any(len(unb64url(item)) != 32 for item in digests):
        raise Refused("a digest of another length")
    return tuple(digests)


def _place(leaf: Leaf) -> None:
    """What may stand where."""
    if leaf.kind not in TYPES or (leaf.kind == "GENESIS") != (leaf.seq == 0):
        raise Refused("no such type, or GENESIS where it may not stand")
    if leaf.seq == 0 and leaf.prev != bytes(32):
        raise Refused("a first record that continues another")
    if leaf.kind in OWN and leaf.log.split("/")[1:2] != [OWN[leaf.kind]]:
        raise Refused(f"{leaf.kind} in another log")


def parse_leaf(data: bytes) -> Leaf:
    """Read the exact bytes of one record."""
    if len(data) > 65_535:
        raise Refused("a leaf that is too long")
    value = parse(data)
    names = ["body", "epoch", "log", "prev", "seq", "time", "type", "v"]
    more = ["sd"] if isinstance(value, dict) and "sd" in value else []
    fields = record(value, *names, *more)
    if fields["v"] != 1 or isinstance(fields["v"], bool):
        raise Refused("another version")
    body = fields["body"]
    if not isinstance(body, dict):
        raise Refused("a body that is not an object")
    epoch = decimal(fields["epoch"])
    if epoch < 1:
        raise Refused("no such epoch")
    leaf = Leaf(
        text(fields["log"], ORIGIN),
        epoch,
        decimal(fields["seq"]),
        unhex(fields["prev"]),
        text(fields["type"]),
        time_ns(fields["time"]),
        text(fields["time"]),
        body,
        _digests(fields),
    )
    _place(leaf)
    return leaf
