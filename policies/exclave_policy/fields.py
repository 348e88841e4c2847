"""Reads the fields of one mapping and reports, rather than raises, everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from exclave_policy.errors import nearest
from exclave_policy.source import Mapping, Node, Report, Scalar, Sequence, shown

MAX_LIST = 256
"""Most entries of a list of names."""
MAX_DESCRIPTION = 1024

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ROLE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
MODEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:/-]{0,126}[A-Za-z0-9])?")
DATA_CLASS = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
HOST = re.compile(r"[a-z0-9]([a-z0-9.:-]{0,251}[a-z0-9])?")
SECRET = NAME
TENSOR = re.compile(r"[A-Za-z0-9_./:-]{1,128}")
COUNTRY = re.compile(r"[A-Z]{2}")
FILE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,99}/){0,2}[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
VKEY = re.compile(r"[!-*,-~]{1,255}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}")
"""A key as C2SP signed-note writes it: name, key id, base64 of type and Ed25519 key."""
VERSION = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.+-]{0,62}[0-9A-Za-z])?")

SHAPES = {
    NAME: "1 to 63 lower-case letters, digits and hyphens",
    ROLE: "1 to 63 lower-case letters, digits, dots, hyphens and underscores",
    MODEL: "1 to 128 letters, digits and ._:/-",
    DATA_CLASS: 'at most 64 letters, digits and _.:-; "" is unlabelled data',
    TOOL: "1 to 64 letters, digits, hyphens and underscores",
    HOST: "a host in lower case, without a scheme or a port",
    VERSION: "1 to 64 letters, digits and .+-",
    TENSOR: "1 to 128 letters, digits and _./:-",
    COUNTRY: "the two capitals of ISO 3166, such as DE",
    VKEY: "a vkey: <name>+<8 hex digits>+<base64>",
    FILE: "the path of a file from the root of the pack, such as schemas/claim.json",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a list of names, and its place."""

    value: str
    node: Scalar
    path: str


class Fields:
    """One mapping being read. Every reader returns a usable default after reporting a fault."""

    def __init__(
        self, node: Node, path: str, report: Report, *, known: Seq[str], required: Seq[str] = ()
    ) -> None:
        self.node = node
        self.path = path
        self.report = report
        self._fields: dict[str, tuple[Scalar, Node]] = {}
        if not isinstance(node, Mapping):
            report.add(node, path, f"expected fields, found {described(node)}")
            return
        self._fields = node.fields
        for name, (key, _) in node.fields.items():
            if name not in known:
                report.add(key, path, f"unknown field {shown(name)}", nearest(name, known))
        for name in required:
            if name not in node.fields:
                report.add(node, path, f"field {name!r} is missing", f"add {name!r}")

    def at(self, name: str) -> str:
        """The document path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str) -> Node | None:
        """The field's node, or None when it is not given."""
        found = self._fields.get(name)
        return None if found is None else found[1]

    def wrong(self, node: Node, name: str, message: str, fix: str = "") -> None:
        """Report a fault of one field."""
        self.report.add(node, self.at(name), message, fix)

    def text(self, name: str, *, limit: int = MAX_DESCRIPTION, default: str = "") -> str:
        """A string of at most `limit` characters."""
        node = self.get(name)
        if node is None:
            return default
        value = self._string(node, name)
        if value is not None and len(value) > limit:
            self.wrong(node, name, f"{len(value)} characters are too many", f"at most {limit}")
            return default
        return default if value is None else value

    def said(self, name: str, limit: int) -> str:
        """A text for people that says something: 1 to `limit` characters."""
        value, node = self.text(name, limit=limit, default="-"), self.get(name)
        if node is not None and not value.strip():
            self.wrong(node, name, "the text is empty", "say something to the caller")
        return "" if node is None else value

    def word(self, name: str, shape: re.Pattern[str], default: str = "") -> str:
        """A string of a given shape."""
        node = self.get(name)
        value = None if node is None else self._string(node, name)
        if node is None or value is None:
            return default
        if shape.fullmatch(value) is None:
            self.wrong(node, name, f"{shown(value)} is not a valid name", f"use {SHAPES[shape]}")
            return default
        return value

    def choice(self, name: str, choices: Seq[str]) -> str:
        """One of a few words; "" after a fault."""
        node = self.get(name)
        value = None if node is None else self._string(node, name)
        if node is None or value is None:
            return ""
        if value not in choices:
            self.wrong(node, name, f"{shown(value)} is not allowed here", nearest(value, choices))
            return ""
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        node = self.get(name)
        if node is None:
            return default
        if not isinstance(node, Scalar) or node.kind != "bool":
            self.wrong(node, name, f"expected true or false, found {described(node)}")
            return default
        return node.value == "true"

    def whole(self, name: str, low: int, high: int, *, null: bool = False) -> int | None:
        """A whole number in [low, high]; None when absent, or given as null where that may be."""
        node = self.get(name)
        if node is None or (null and isinstance(node, Scalar) and node.kind == "null"):
            return None
        if not isinstance(node, Scalar) or node.kind != "int":
            self.wrong(node, name, f"expected a whole number, found {described(node)}")
            return None
        # The length is bounded first: int() of a long text costs its square.
        if len(node.value) > 20 or not low <= int(node.value) <= high:
            self.wrong(node, name, "the number is out of range", f"from {low} to {high}")
            return None
        return int(node.value)

    def names(
        self,
        name: str,
        *,
        shape: re.Pattern[str] | None = None,
        choices: Seq[str] = (),
        wildcard: bool = False,
        empty: bool = False,
    ) -> list[Item]:
        """A list of distinct names, each of a shape or one of a few words."""
        node = self.get(name)
        if node is None:
            return []
        if not isinstance(node, Sequence):
            fix = "write it as a list: [...]"
            self.wrong(node, name, f"expected a list of names, found {described(node)}", fix)
            return []
        if not node.items and not empty:
            self.wrong(node, name, "the list is empty", "name at least one, or leave it out")
        if len(node.items) > MAX_LIST:
            self.wrong(node, name, f"{len(node.items)} entries are too many", f"at most {MAX_LIST}")
            return []
        items = [
            self._item(entry, f"{name}[{i}]", shape, choices, wildcard)
            for i, entry in enumerate(node.items)
        ]
        found = [item for item in items if item is not None]
        self._distinct(found, wildcard=wildcard)
        return found

    def _item(
        self,
        node: Node,
        name: str,
        shape: re.Pattern[str] | None,
        choices: Seq[str],
        wildcard: bool,
    ) -> Item | None:
        value = self._string(node, name)
        if value is None or not isinstance(node, Scalar):
            return None
        if wildcard and value == "*":
            return Item(value, node, self.at(name))
        if choices and value not in choices:
            self.wrong(node, name, f"{shown(value)} is not allowed here", nearest(value, choices))
            return None
        if shape is not None and shape.fullmatch(value) is None:
            self.wrong(node, name, f"{shown(value)} is not a valid name", f"use {SHAPES[shape]}")
            return None
        return Item(value, node, self.at(name))

    def _distinct(self, items: Seq[Item], *, wildcard: bool) -> None:
        seen: set[str] = set()
        for item in items:
            if item.value in seen:
                fix = "name it once"
                self.report.add(item.node, item.path, f"{shown(item.value)} is named twice", fix)
            seen.add(item.value)
        if wildcard and "*" in seen and len(seen) > 1:
            star = next(item for item in items if item.value == "*")
            fix = 'keep "*" alone, or remove it'
            self.report.add(star.node, star.path, '"*" already covers the other names', fix)

    def _string(self, node: Node, name: str) -> str | None:
        if isinstance(node, Scalar) and node.kind == "string":
            return node.value
        fix = "put it in quotes" if isinstance(node, Scalar) and node.kind != "null" else ""
        self.wrong(node, name, f"expected text, found {described(node)}", fix)
        return None


def described(node: Node) -> str:
    """What a node is, for messages: its kind, never its value."""
    if isinstance(node, Mapping):
        return "fields"
    if isinstance(node, Sequence):
        return "a list"
    return {
        "string": "text",
        "int": "a whole number",
        "bool": "true or false",
        "null": "nothing",
        "float": "a number with a fraction",
        "ambiguous": "a word that YAML readers disagree on",
    }[node.kind]
