"""OSCAL assessment results (NIST, model 1.1.3): what was verified, and what an assessor looks at.

Identifiers are made of what they name (RFC 9562 version 5), so that one bundle gives one document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID, uuid5

from exclave_protocol.leaf import format_time
from exclave_protocol.report import Step
from exclave_protocol.summary import EVENTS

from .records import Bundle, Item, items, level

VERSION: Final = "1.1.3"
SPACE: Final = UUID("6f1c1d0e-6d3b-5c0a-9b59-0f2f6d1f7b11")
"""Of all identifiers made here."""
MAX_EVENTS: Final = 10_000
"""Records that are told one by one; beyond, only how many there are."""
NAMESPACE: Final = "https://exclave.dev/ns/oscal"


def export(bundle: Bundle) -> Iterator[bytes]:
    """One document."""
    document = {"assessment-results": _results(bundle)}
    yield json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def _id(bundle: Bundle, *names: object) -> str:
    manifest = bundle.manifest
    whole = (manifest.trust_domain, manifest.tenant, str(manifest.created_ns), *map(str, names))
    return str(uuid5(SPACE, "\n".join(whole)))


def _results(bundle: Bundle) -> dict[str, Any]:
    manifest, verdict = bundle.manifest, bundle.report.verdict
    written = _moment(manifest.created_ns)
    plan = _id(bundle, "plan")
    steps = [_step(bundle, step, written) for step in bundle.report.steps]
    events, left = _events(bundle)
    observations = steps + events
    result = {
        "uuid": _id(bundle, "result"),
        "title": f"Audit bundle of tenant {manifest.tenant}: {verdict}",
        "description": (
            "What verifying the bundle showed, and the records in it that an assessor should see."
            + (f" {left} further such records are in the bundle alone." if left else "")
        ),
        "start": _moment(manifest.time_from * 10**9),
        "end": _moment(manifest.time_to * 10**9) if manifest.time_to else written,
        "props": [_prop("verdict", str(verdict))],
        "reviewed-controls": {"control-selections": [{"include-all": {}}]},
        "observations": observations,
        "findings": [_finding(bundle, [each["uuid"] for each in steps])],
    }
    return {
        "uuid": _id(bundle, "document"),
        "metadata": {
            "title": f"Exclave audit evidence of tenant {manifest.tenant}",
            "last-modified": written,
            "version": "1",
            "oscal-version": VERSION,
        },
        "import-ap": {"href": f"#{plan}"},
        "results": [result],
        "back-matter": {
            "resources": [
                {
                    "uuid": plan,
                    "title": "Verification of an audit bundle",
                    "description": "The steps of docs/audit-format.md, section 5.",
                }
            ]
        },
    }


def _step(bundle: Bundle, step: Step, at: str) -> dict[str, Any]:
    told = "; ".join(filter(None, (step.detail, *step.notes))) or "it holds"
    return {
        "uuid": _id(bundle, "step", step.number),
        "title": _line(f"{step.number} {step.title}"),
        "description": _line(told),
        "props": [_prop("verdict", str(step.verdict))],
        "methods": ["TEST"],
        "collected": at,
    }


def _events(bundle: Bundle) -> tuple[list[dict[str, Any]], int]:
    found: list[dict[str, Any]] = []
    left = 0
    for item in items(bundle):
        if item.leaf.type not in EVENTS and level(item.leaf) < 2:
            continue
        if len(found) == MAX_EVENTS:
            left += 1
            continue
        found.append(_event(bundle, item))
    return found, left


def _event(bundle: Bundle, item: Item) -> dict[str, Any]:
    leaf = item.leaf
    told = ", ".join(
        f"{name} {value}" for name, value in sorted(leaf.body.items()) if isinstance(value, str)
    )
    return {
        "uuid": _id(bundle, leaf.log, leaf.seq),
        "title": _line(f"{leaf.type} at seq {leaf.seq} of {leaf.log}"),
        "description": _line(told) or str(leaf.type),
        "props": [
            _prop("type", str(leaf.type)),
            _prop("seq", str(leaf.seq)),
            _prop("leaf-hash", item.hash),
        ],
        "methods": ["EXAMINE"],
        "collected": _moment(leaf.time_ns),
    }


def _finding(bundle: Bundle, steps: list[str]) -> dict[str, Any]:
    verdict = bundle.report.verdict
    state = "satisfied" if verdict.exit_code == 0 else "not-satisfied"
    return {
        "uuid": _id(bundle, "finding"),
        "title": "The record is complete, unaltered and witnessed",
        "description": f"The verdict of the verification is {verdict}.",
        "target": {
            "type": "objective-id",
            "target-id": "audit-record-integrity",
            "status": {"state": state},
        },
        "related-observations": [{"observation-uuid": each} for each in steps],
    }


def _prop(name: str, value: str) -> dict[str, str]:
    return {"name": name, "ns": NAMESPACE, "value": value}


def _moment(time_ns: int) -> str:
    return format_time(time_ns)[:19] + "Z"


def _line(text: str) -> str:
    """Markup lines take no line ends, and nothing that would be markup."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
