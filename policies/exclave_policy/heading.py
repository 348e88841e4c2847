"""What every document begins with: its kind, its name, its version."""

from __future__ import annotations

import re
from collections.abc import Sequence as Seq

from exclave_policy.fields import NAME, VERSION, Fields
from exclave_policy.source import Node, Report

API_VERSION = "exclave.dev/v1"


def header(root: Node, kinds: Seq[str], report: Report) -> tuple[Fields, str]:
    """The fields every document has, and which of `kinds` it is ("" after a fault)."""
    names = ("apiVersion", "kind", "metadata", "spec")
    needed = names if "Pack" not in kinds else names[:3]
    top = Fields(root, "", report, known=needed, required=needed)
    top.choice("apiVersion", (API_VERSION,))
    return top, top.choice("kind", kinds)


def metadata(top: Fields, shape: re.Pattern[str] = NAME) -> tuple[str, str, str]:
    """Name, version and description of a document; empty after faults."""
    node = top.get("metadata")
    if node is None:
        return "", "", ""
    known = ("name", "version", "description")
    fields = Fields(node, "metadata", top.report, known=known, required=known[:2])
    return fields.word("name", shape), fields.word("version", VERSION), fields.text("description")
