"""Documents of kind Retention: how long the values of records are kept, by class."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_policy.fields import DATA_CLASS, NAME, Fields
from exclave_policy.heading import metadata
from exclave_policy.model import ANY
from exclave_policy.source import Node, Report, Sequence, shown

MAX_CLASSES = 64
MAX_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """One class. What ends is the values in the vault: the leaves stay, and verify."""

    name: str
    days: int
    """0: values go as soon as their decision has ended."""
    data_classes: frozenset[str] = frozenset()
    """Labels of data that are of this class by themselves; `ANY`: all that no other class has."""


@dataclass(frozen=True, slots=True)
class Retention:
    """One document of kind Retention, checked; a pack, or a release, has at most one."""

    name: str
    version: str
    description: str
    classes: tuple[RetentionClass, ...]
    file: str = ""
    line: int = 0

    def named(self, name: str) -> RetentionClass | None:
        """The class of that name."""
        return next((each for each in self.classes if each.name == name), None)

    def of(self, data_class: str) -> RetentionClass | None:
        """The class of data with that label; None: it is kept."""
        for each in self.classes:
            if data_class in each.data_classes:
                return each
        return next((each for each in self.classes if ANY in each.data_classes), None)


def read_retention(top: Fields, spec: Node, report: Report) -> Retention | None:
    """Read a Retention's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    fields = Fields(spec, "spec", report, known=("classes",), required=("classes",))
    classes = _classes(fields)
    if len(report.problems) + report.dropped != before:
        return None
    return Retention(name, version, description, classes, report.file, top.node.line)


def _classes(parent: Fields) -> tuple[RetentionClass, ...]:
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
        _class(item, f"spec.classes[{i}]", parent.report, names, labels)
        for i, item in enumerate(node.items)
    )


def _class(
    node: Node, path: str, report: Report, names: set[str], labels: dict[str, str]
) -> RetentionClass:
    """One class; `names` and `labels` (with the class they are in) are those of the ones before."""
    known = ("name", "days", "data_classes")
    fields = Fields(node, path, report, known=known, required=known[:2])
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
    days = fields.whole("days", 0, MAX_DAYS)
    return RetentionClass(name, days or 0, frozenset(item.value for item in chosen))
