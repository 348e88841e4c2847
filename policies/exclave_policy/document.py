"""Reads one document of a pack, whatever its kind, and says everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from exclave_policy.fields import Fields
from exclave_policy.heading import API_VERSION, header, metadata
from exclave_policy.kinds.approvals import Approval, read_approval
from exclave_policy.kinds.budgets import Budget, read_budget
from exclave_policy.kinds.caching import CachePolicy, read_cache
from exclave_policy.kinds.finality import Finality, read_finality
from exclave_policy.kinds.redactions import Redaction, read_redaction
from exclave_policy.kinds.retention import Retention, read_retention
from exclave_policy.kinds.routes import Route, read_route
from exclave_policy.kinds.rules import MAX_RULES, Policy, read_policy
from exclave_policy.kinds.telemetry import Telemetry, read_telemetry
from exclave_policy.kinds.validating import read_validator
from exclave_policy.kinds.validators import Validator
from exclave_policy.source import Node, Report, parse, read_text

__all__ = ["API_VERSION", "KINDS", "MAX_RULES", "Document", "read_document"]

Document: TypeAlias = (
    Policy
    | Route
    | Budget
    | CachePolicy
    | Validator
    | Redaction
    | Approval
    | Retention
    | Telemetry
    | Finality
)


def read_document(
    raw: bytes, report: Report, files: Mapping[str, str] | None = None
) -> Document | None:
    """Parse one document; None when faults were reported. `files`: what else its pack holds, by
    the path from the pack's root; documents may name them."""
    before = len(report.problems) + report.dropped
    text = read_text(raw, report)
    root = None if text is None else parse(text, report)
    if text is None or root is None:
        return None
    top, kind = header(root, tuple(KINDS), report)
    spec = top.get("spec")
    document = None
    if spec is not None:
        # A document of no kind we know is read as a policy, so that its other faults show too.
        document = KINDS[kind or "Policy"](top, spec, Source(text, report, files or {}))
    return document if len(report.problems) + report.dropped == before else None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document comes from."""

    text: str
    """All of it: in it, faults of conditions have their places."""
    report: Report
    files: Mapping[str, str]
    """What else its pack holds, by the path from the pack's root."""


def _budget(top: Fields, spec: Node, source: Source) -> Budget | None:
    metadata(top)
    return read_budget(top, spec, source.text, source.report)


def _cache(top: Fields, spec: Node, source: Source) -> CachePolicy | None:
    metadata(top)
    return read_cache(top, spec, source.text, source.report)


KINDS: dict[str, Callable[[Fields, Node, Source], Document | None]] = {
    "Policy": lambda top, spec, at: read_policy(top, spec, at.text, at.report),
    "Route": lambda top, spec, at: read_route(top, spec, at.text, at.report),
    "Budget": _budget,
    "Cache": _cache,
    "Validator": lambda top, spec, at: read_validator(top, spec, at.text, at.report, at.files),
    "Redaction": lambda top, spec, at: read_redaction(top, spec, at.report),
    "Approval": lambda top, spec, at: read_approval(top, spec, at.report),
    "Retention": lambda top, spec, at: read_retention(top, spec, at.report),
    "Telemetry": lambda top, spec, at: read_telemetry(top, spec, at.report),
    "Finality": lambda top, spec, at: read_finality(top, spec, at.report),
}
"""How each kind of document is read."""
