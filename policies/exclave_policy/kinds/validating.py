"""Reads a document of kind Validator."""

from __future__ import annotations

from collections.abc import Mapping

from exclave_policy.fields import Fields
from exclave_policy.heading import metadata
from exclave_policy.kinds.checks import Checks
from exclave_policy.kinds.validators import OTHERWISE, STAGES, Otherwise, Stage, Validator
from exclave_policy.model import MODES
from exclave_policy.source import Node, Report

MAX_TOLD = 4096
"""Most characters of the text for the caller."""


def read_validator(
    top: Fields, spec: Node, text: str, report: Report, files: Mapping[str, str]
) -> Validator | None:
    """Read a Validator's `metadata` and `spec`; None when faults were reported. `files`: of its
    pack, by their path from the pack's root."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    known = ("stage", "mode", "checks", "on_failure")
    fields = Fields(spec, "spec", report, known=known, required=("stage", "checks"))
    # What is no stage at all is read as "output", which admits every check.
    stage: Stage = "input" if fields.choice("stage", STAGES) == "input" else "output"
    checks = Checks(stage, text, files).read(fields)
    repair, otherwise, told = _on_failure(fields, stage)
    validator = Validator(
        name=name,
        version=version,
        description=description,
        stage=stage,
        checks=checks,
        repair=repair,
        otherwise=otherwise,
        told=told,
        mode="audit" if fields.choice("mode", MODES) == "audit" else "enforce",
        file=report.file,
        line=top.node.line,
    )
    return validator if len(report.problems) + report.dropped == before else None


def _on_failure(parent: Fields, stage: Stage) -> tuple[bool, Otherwise, str]:
    """Whether to repair, what else, and what the caller is told."""
    node = parent.get("on_failure")
    if node is None:
        return False, "refuse", ""
    known = ("repair", "otherwise", "told")
    fields = Fields(node, parent.at("on_failure"), parent.report, known=known)
    repair, given = fields.flag("repair"), fields.choice("otherwise", OTHERWISE)
    for name, wrong in (("repair", repair), ("otherwise", given == "fall_back")):
        place = fields.get(name)
        if stage == "input" and wrong and place is not None:
            fix = "an input is refused, or escalated"
            fields.wrong(place, name, "this is for the stage output", fix)
    told = fields.get("told")
    if given == "escalate" and told is None:
        fix = "add 'told': what the caller is given meanwhile"
        parent.report.add(node, fields.path, "escalate, and nothing to tell", fix)
    if told is not None and given != "escalate":
        fix = "write otherwise: escalate, or remove it"
        fields.wrong(told, "told", "nobody is told this", fix)
    otherwise: Otherwise = next((each for each in OTHERWISE if each == given), "refuse")
    return repair, otherwise, fields.said("told", MAX_TOLD)
