"""Reads decimals, which documents write as text: YAML's floats are rounded, and readers disagree
on them."""

from __future__ import annotations

import re
from decimal import Decimal

from exclave_policy.fields import Fields
from exclave_policy.source import Scalar

FRACTION = re.compile(r"0(\.[0-9]{1,6})?|1(\.0{1,6})?")
AMOUNT = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?")


def fraction(fields: Fields, name: str) -> float | None:
    """A number of 0..1; None when absent, or after a fault."""
    value = decimal(fields, name, FRACTION, "a decimal number from '0' to '1' in quotes")
    return None if value is None else float(value)


def decimal(fields: Fields, name: str, shape: re.Pattern[str], expected: str) -> Decimal | None:
    """A number of a shape; None when absent, or after a fault."""
    node = fields.get(name)
    if node is None:
        return None
    if not isinstance(node, Scalar) or node.kind != "string" or not shape.fullmatch(node.value):
        fields.wrong(node, name, "not a decimal number as text", f"use {expected}")
        return None
    return Decimal(node.value)
