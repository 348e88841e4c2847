"""Reads a condition out of a document, and says where in the file its faults are."""

from __future__ import annotations

from exclave_policy.admission import Fault, Scope
from exclave_policy.conditions import Condition, ConditionInvalid, compile_condition
from exclave_policy.fields import Fields
from exclave_policy.source import Scalar


def read_condition(
    fields: Fields, name: str, text: str, scope: Scope = Scope.REQUEST
) -> Condition | None:
    """The field's condition, compiled; None when it is absent, or after faults. `text` is the
    whole document, in which the faults have their places."""
    node = fields.get(name)
    if node is None:
        return None
    if not isinstance(node, Scalar) or node.kind != "string":
        fix = "write a CEL condition in quotes"
        fields.wrong(node, name, "expected a condition as text", fix)
        return None
    try:
        return compile_condition(node.value, scope)
    except ConditionInvalid as invalid:
        for fault in invalid.faults:
            line, column = _place(node, fault, text)
            fields.report.add_at(line, column, fields.at(name), fault.message, fault.fix)
    return None


def _place(node: Scalar, fault: Fault, text: str) -> tuple[int, int]:
    """Where in the file a fault of a condition is; the scalar's start when that is unclear."""
    if fault.line < 1 or fault.column < 1:
        return node.line, node.column
    if node.style == "|":
        line = node.line + fault.line
        lines = text.split("\n")
        first = next((t for t in lines[node.line :] if t.strip()), "")
        return line, len(first) - len(first.lstrip(" ")) + fault.column
    start = text.split("\n")[node.line - 1][node.column - 1 :]
    quote = len(node.style) if node.style in ("'", '"') else 0
    one_line = start[quote:].startswith(node.value)
    if not one_line or node.style == ">":
        return node.line, node.column
    return node.line, node.column + quote + fault.column - 1
