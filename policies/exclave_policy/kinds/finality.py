"""Documents of kind Finality: how many witnesses a decision of a class needs before it is final."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_policy.fields import DATA_CLASS, NAME, VKEY, Fields
from exclave_policy.heading import metadata
from exclave_policy.model import ANY
from exclave_policy.source import Node, Report, Sequence, shown

MAX_CLASSES = 64
MAX_WITNESSES = 16
"""Outside witnesses that a document names."""


@dataclass(frozen=True, slots=True)
class FinalityClass:
    """One class of decisions."""

    name: str
    witnesses: int
    """Different ones, the coordinator's among them, that must have cosigned the record."""
    data_classes: frozenset[str]
    """Labels of data whose decisions are of this class; `ANY`: all that no other class has."""


@dataclass(frozen=True, slots=True)
class Finality:
    """One document of kind Finality, checked; a pack, or a release, has at most one."""

    name: str
    version: str
    description: str
    classes: tuple[FinalityClass, ...]
    log: str = ""
    """vkey of the coordinator's witness's log, which outside witnesses cosign."""
    witnesses: tuple[str, ...] = ()
    """vkeys of the outside witnesses that count."""
    file: str = ""
    line: int = 0

    def of(self, data_class: str) -> FinalityClass | None:
        """The class of data with that label; None: nobody waits for its record."""
        for each in self.classes:
            if data_class in each.data_classes:
                return each
        return next((each for each in self.classes if ANY in each.data_classes), None)

    @property
    def most(self) -> int:
        """The most witnesses that any class needs."""
        return max(each.witnesses for each in self.classes)


def read_finality(top: Fields, spec: Node, report: Report) -> Finality | None:
    """Read a Finality's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    known = ("log", "witnesses", "classes")
    fields = Fields(spec, "spec", report, known=known, required=("classes",))
    log = fields.word("log", VKEY)
    witnesses = tuple(item.value for item in fields.names("witnesses", shape=VKEY))
    place = fields.get("witnesses")
    if place is not None and len(witnesses) > MAX_WITNESSES:
        fields.wrong(place, "witnesses", f"{len(witnesses)} witnesses", f"at most {MAX_WITNESSES}")
    if place is not None and not log:
        fields.wrong(place, "witnesses", "no `log`", "name the witness's log that they cosign")
    classes = _classes(fields, 1 + len(witnesses))
    if len(report.problems) + report.dropped != before:
        return None
    return Finality(name, version, description, classes, log, witnesses, report.file, top.node.line)


def _classes(parent: Fields, known: int) -> tuple[FinalityClass, ...]:
    node = parent.get("classes")
    if node is None:
        return ()
    if not isinstance(node, Sequence):
        parent.wrong(node, "classes", "expected a list of classes", "start each with '- name:'")
        return ()
    if not 0 < len(node.items) <= MAX_CLASSES:
        message = f"{len(node.items)} classes"
        parent.wrong(node, "classes", message, f"1 to {MAX_CLASSES} in a document")
        return ()
    names: set[str] = set()
    labels: dict[str, str] = {}
    return tuple(
        _class(item, f"spec.classes[{i}]", parent.report, known, names, labels)
        for i, item in enumerate(node.items)
    )


def _class(
    node: Node, path: str, report: Report, known: int, names: set[str], labels: dict[str, str]
) -> FinalityClass:
    """One class; `known` witnesses there are, `names` and `labels` (with the class they are in)
    are those of the classes before."""
    allowed = ("name", "witnesses", "data_classes")
    fields = Fields(node, path, report, known=allowed, required=allowed)
    name, place = fields.word("name", NAME), fields.get("name")
    if name and place is not None and name in names:
        fields.wrong(place, "name", f"class {name!r} is defined already", "choose another name")
    names.add(name)
    chosen = fields.names("data_classes", shape=DATA_CLASS, wildcard=True)
    for item in chosen:
        other = labels.setdefault(item.value, path)
        if other != path:
            message = f"{shown(item.value)} is of {other} already"
            report.add(item.node, item.path, message, "a label of data is of one class")
    count, at = fields.whole("witnesses", 1, 1 + MAX_WITNESSES), fields.get("witnesses")
    if count is not None and at is not None and count > known:
        message = f"{count} witnesses, and {known} are known, the coordinator's among them"
        fields.wrong(at, "witnesses", message, "name more in spec.witnesses")
    return FinalityClass(name, count or 1, frozenset(item.value for item in chosen))
