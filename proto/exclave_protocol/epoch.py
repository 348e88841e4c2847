"""Epochs: a log that cannot go on is continued by another, which links its last cosigned head."""

from __future__ import annotations

from base64 import b64encode

from .canonical import JsonValue
from .checkpoint import Checkpoint
from .leaf import Leaf, LeafType

PREVIOUS = "previous"


def link(head: Checkpoint, note: bytes) -> dict[str, JsonValue]:
    """What an EPOCH leaf says of the epoch before; `note` is the cosigned head as it was found,
    empty when nothing of it was ever cosigned."""
    return {
        "origin": head.origin,
        "size": str(head.size),
        "root": head.root.hex(),
        "checkpoint": b64encode(note).decode(),
    }


def links(leaf: Leaf, head: Checkpoint) -> str:
    """Why a leaf is not the EPOCH that continues the log with this cosigned head; "": it is."""
    stated = leaf.body.get(PREVIOUS)
    if leaf.type is not LeafType.EPOCH or not isinstance(stated, dict):
        return "not an EPOCH that links the epoch before"
    for name, value in (
        ("origin", head.origin),
        ("size", str(head.size)),
        ("root", head.root.hex()),
    ):
        if stated.get(name) != value:
            return f"EPOCH links another {name} than that of the cosigned head"
    return ""


def linked_size(leaf: Leaf) -> int:
    """The size of the head that an EPOCH links; 0 when it links none."""
    stated = leaf.body.get(PREVIOUS)
    size = stated.get("size") if isinstance(stated, dict) else None
    known = isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20
    return int(size) if known and isinstance(size, str) else 0
