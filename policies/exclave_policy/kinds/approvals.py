"""Documents of kind Approval: which decisions wait for people, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_policy.fields import ROLE, Fields
from exclave_policy.heading import metadata
from exclave_policy.source import Node, Report

MAX_COUNT = 16
"""Most people that one decision can wait for."""
LEAST_SECONDS = 60
MAX_SECONDS = 31 * 86_400
DEFAULT_SECONDS = 86_400
MAX_TOLD = 4096
"""Most characters of the text for the caller."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One document of kind Approval, checked."""

    name: str
    version: str
    description: str
    roles: frozenset[str]
    """Who may approve."""
    count: int = 1
    """How many different people must."""
    separate: bool = True
    """Whoever asked may not approve."""
    expires_seconds: int = DEFAULT_SECONDS
    """A decision that nobody approved by then is refused."""
    told: str = ""
    """The text that the caller is given meanwhile."""
    file: str = ""
    line: int = 0


def read_approval(top: Fields, spec: Node, report: Report) -> Approval | None:
    """Read an Approval's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    known = ("roles", "count", "separate", "expires_seconds", "told")
    fields = Fields(spec, "spec", report, known=known, required=("roles", "told"))
    roles = frozenset(item.value for item in fields.names("roles", shape=ROLE))
    count = fields.whole("count", 1, MAX_COUNT)
    expires = fields.whole("expires_seconds", LEAST_SECONDS, MAX_SECONDS)
    approval = Approval(
        name=name,
        version=version,
        description=description,
        roles=roles,
        count=1 if count is None else count,
        separate=fields.flag("separate", True),
        expires_seconds=DEFAULT_SECONDS if expires is None else expires,
        told=fields.said("told", MAX_TOLD),
        file=report.file,
        line=top.node.line,
    )
    return approval if len(report.problems) + report.dropped == before else None
