"""Documents of kind Telemetry: what the agent may tell about its decisions, beyond the record."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_policy.fields import Fields
from exclave_policy.heading import metadata
from exclave_policy.source import Node, Report

MAX_MINIMUM = 1_000_000
MAX_ROUND = 1_000_000


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One document of kind Telemetry, checked; a pack, or a release, has at most one."""

    name: str
    version: str
    description: str
    counts: bool = True
    """Whether running totals go to the coordinator."""
    minimum: int = 0
    """A total below this is told as 0, so that a rare event does not point at a person."""
    round_to: int = 1
    """Totals are told in whole multiples of this, rounded down."""
    traces: bool = True
    """Whether spans go to the collector that the machine's operator names."""
    file: str = ""
    line: int = 0


def read_telemetry(top: Fields, spec: Node, report: Report) -> Telemetry | None:
    """Read a Telemetry's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    known = ("counts", "minimum", "round_to", "traces")
    fields = Fields(spec, "spec", report, known=known)
    telemetry = Telemetry(
        name=name,
        version=version,
        description=description,
        counts=fields.flag("counts", True),
        minimum=fields.whole("minimum", 0, MAX_MINIMUM) or 0,
        round_to=fields.whole("round_to", 1, MAX_ROUND) or 1,
        traces=fields.flag("traces", True),
        file=report.file,
        line=top.node.line,
    )
    return telemetry if len(report.problems) + report.dropped == before else None
