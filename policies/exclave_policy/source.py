"""Reads YAML text into nodes that know their place, with every limit checked before it can hurt.

A strict subset of YAML 1.2: one document, mappings, sequences and scalars. Anchors, aliases,
tags, duplicate keys and words that YAML readers disagree on ("yes", "off") are refused. The
text is read as a stream of events and never recursively, so that a hostile document costs
what its first MAX_DEPTH levels cost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import yaml
from yaml import CSafeLoader

from exclave_policy.errors import Problem

MAX_TEXT = 512 * 1024
"""Most bytes of one document."""
MAX_DEPTH = 16
MAX_NODES = 100_000
MAX_PROBLEMS = 100
"""Faults listed of one pack; a count stands for the rest."""

Kind = Literal["string", "int", "bool", "null", "float", "ambiguous"]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
)
# YAML 1.1 calls these booleans, 1.2 strings; octal, hex and base-60 numbers likewise.
_AMBIGUOUS = re.compile(
    r"(?i:yes|no|on|off)|[-+]?0[0-9_]+|[-+]?0[xob][0-9a-fA-F_]+|[-+]?[0-9]+(:[0-5]?[0-9])+"
)
# Invisible or text-reordering characters: what a reviewer sees must be what is signed.
_HIDDEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202f"
    "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf of the document. `line` and `column` are 1-based and in characters."""

    value: str
    kind: Kind
    style: str
    """"" plain, "'" or '"' quoted, "|" literal, ">" folded."""
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """An ordered list of nodes."""

    items: list[Node]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Fields by name, each with its key's node (for its place)."""

    fields: dict[str, tuple[Scalar, Node]]
    line: int
    column: int


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Report:
    """Collects the faults of one file; keeps the first MAX_PROBLEMS and counts the rest."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    dropped: int = 0

    def add(self, node: Node | None, path: str, message: str, fix: str = "") -> None:
        """Record one fault at a node (None: of the whole file)."""
        line, column = (node.line, node.column) if node is not None else (0, 0)
        self.add_at(line, column, path, message, fix)

    def add_at(self, line: int, column: int, path: str, message: str, fix: str = "") -> None:
        """Record one fault at a place."""
        if len(self.problems) >= MAX_PROBLEMS:
            self.dropped += 1
            return
        self.problems.append(Problem(self.file, line, column, path, message, fix))

    def all(self) -> list[Problem]:
        """The faults kept, and one more that says how many are not listed."""
        if not self.dropped:
            return self.problems
        message = f"{self.dropped} more problems are not listed"
        return [*self.problems, Problem(self.file, 2**31, 0, "", message, "correct these first")]


def read_text(raw: bytes, report: Report) -> str | None:
    """Decode a document; None (and a fault) when it is too large or not clean UTF-8."""
    if len(raw) > MAX_TEXT:
        report.add(None, "", f"{len(raw)} bytes are too many", f"at most {MAX_TEXT} bytes a file")
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        report.add(None, "", f"byte {error.start} is not UTF-8", "save the file as UTF-8")
        return None
    text = text.replace("\r\n", "\n")
    hidden = _HIDDEN.search(text)
    if hidden is not None:
        before = text[: hidden.start()]
        line, column = before.count("\n") + 1, hidden.start() - before.rfind("\n")
        message = f"hidden character U+{ord(hidden.group()):04X}"
        report.add_at(line, column, "", message, "remove it, or write it as an escape in quotes")
        return None
    return text


def parse(text: str, report: Report) -> Node | None:
    """The document's root node; None (and faults) when there is none to be trusted."""
    before = len(report.problems)
    builder = _Builder(report)
    try:
        for event in yaml.parse(text, Loader=CSafeLoader):
            if not builder.take(event):
                return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        report.add_at(line, column, "", f"not YAML: {error.problem or 'malformed'}")
        return None
    except yaml.YAMLError:
        report.add(None, "", "not YAML: malformed text")
        return None
    if builder.root is None:
        report.add(None, "", "the document is empty")
    return builder.root if len(report.problems) == before else None


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen; `key` is the field waiting for its value."""

    node: Sequence | Mapping
    key: Scalar | None = None


class _Builder:
    """Turns events into nodes with an explicit stack."""

    def __init__(self, report: Report) -> None:
        self.root: Node | None = None
        self._report = report
        self._stack: list[_Open] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> bool:
        """Take one event; False when reading must stop."""
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                fix = "one document a file: put the second into a file of its own"
                self._report.add_at(line, column, "", "a second document", fix)
                return False
        elif isinstance(event, yaml.NodeEvent):
            return self._take_node(event, line, column)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()
        return True

    def _take_node(self, event: yaml.NodeEvent, line: int, column: int) -> bool:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._report.add_at(line, column, "", f"more than {MAX_NODES} values")
            return False
        if isinstance(event, yaml.AliasEvent):
            self._report.add_at(line, column, "", "an alias (*)", "write the value out")
            self._place(Scalar("", "null", "", line, column))
            return True
        if event.anchor is not None:
            self._report.add_at(line, column, "", "an anchor (&)", "remove it")
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                self._report.add_at(line, column, "", "a tag (!)", "remove it")
            self._place(self._scalar(event, line, column))
            return True
        return self._open(event, line, column)

    def _open(self, event: yaml.NodeEvent, line: int, column: int) -> bool:
        if getattr(event, "tag", None) is not None:
            self._report.add_at(line, column, "", "a tag (!)", "remove it")
        if len(self._stack) >= MAX_DEPTH:
            self._report.add_at(line, column, "", f"nested deeper than {MAX_DEPTH} levels")
            return False
        node: Sequence | Mapping
        if isinstance(event, yaml.SequenceStartEvent):
            node = Sequence([], line, column)
        else:
            node = Mapping({}, line, column)
        self._place(node)
        self._stack.append(_Open(node))
        return True

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Scalar:
        style = event.style or ""
        kind: Kind = "string" if style else kind_of_plain(event.value)
        return Scalar(event.value, kind, style, line, column)

    def _place(self, node: Node) -> None:
        """Put a finished or just opened node where it belongs."""
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            top.key = self._key(top.node, node)
        else:
            top.node.fields[top.key.value] = (top.key, node)
            top.key = None

    def _key(self, mapping: Mapping, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            self._report.add(node, "", "a field's name must be a word")
            return Scalar("", "string", "", node.line, node.column)
        first = mapping.fields.get(node.value)
        if first is not None:
            message = f"field {shown(node.value)} is given twice (first in line {first[0].line})"
            self._report.add(node, "", message, "keep one of them")
        return node


def kind_of_plain(value: str) -> Kind:
    """What an unquoted word is."""
    if value in ("", "~", "null", "Null", "NULL"):
        return "null"
    if value in ("true", "false"):
        return "bool"
    if value in ("True", "TRUE", "False", "FALSE") or _AMBIGUOUS.fullmatch(value):
        return "ambiguous"
    if _INT.fullmatch(value):
        return "int"
    return "float" if _FLOAT.fullmatch(value) else "string"


def shown(name: str) -> str:
    """A name for a message: quoted, ASCII, and short."""
    text = ascii(name)
    return text if len(text) <= 66 else f"{text[:60]}...'"


PlainValue = str | int | bool | None | list["PlainValue"] | dict[str, "PlainValue"]


def plain(node: Node) -> PlainValue:
    """The node as plain values (for JSON Schema). Depth is bounded by MAX_DEPTH.

    Raises: ValueError for a word that YAML readers disagree on, or a fraction.
    """
    if isinstance(node, Mapping):
        return {name: plain(value) for name, (_, value) in node.fields.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if node.kind == "int":
        return int(node.value) if len(node.value) <= 20 else node.value
    if node.kind in ("bool", "null"):
        return node.value == "true" if node.kind == "bool" else None
    if node.kind == "string":
        return node.value
    raise ValueError(f"{node.kind} at {node.line}:{node.column}")
