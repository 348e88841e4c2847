"""OpenTelemetry logs: OTLP/JSON, one ExportLogsServiceRequest a line, as file exporters write it.

Attributes of models and tokens are those of the GenAI semantic conventions; everything else that a
record says stands below `exclave.`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any, Final

from exclave_protocol.canonical import JsonValue
from exclave_protocol.layout import LogEntry

from .records import Bundle, Item, flat, inner, items, level, word

BATCH: Final = 100
"""Records of one request."""
SEVERITY: Final = ((9, "INFO"), (10, "INFO2"), (13, "WARN"), (17, "ERROR"))
"""OTLP severity number and text, by `records.level`."""
OPERATION: Final = {"chat": "chat", "complete": "text_completion", "embed": "embeddings"}
"""GenAI operation by our action; another one keeps its own name."""


def export(bundle: Bundle) -> Iterator[bytes]:
    """A line for up to `BATCH` records of one log."""
    for log, found in groupby(items(bundle), key=lambda item: item.log):
        while batch := tuple(islice(found, BATCH)):
            request = {"resourceLogs": [_resource(bundle, log, batch)]}
            yield json.dumps(request, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _resource(bundle: Bundle, log: LogEntry, batch: tuple[Item, ...]) -> dict[str, Any]:
    service = "exclave-agent" if log.agent else "exclave-coordinator"
    attributes = {
        "service.name": service,
        "service.instance.id": log.origin,
        "exclave.tenant": bundle.manifest.tenant,
        "exclave.agent": log.agent,
        "exclave.epoch": str(log.epoch),
        "exclave.bundle.verdict": str(bundle.report.verdict),
    }
    seen = str(bundle.manifest.created_ns)
    return {
        "resource": {"attributes": _attributes(attributes)},
        "scopeLogs": [
            {
                "scope": {"name": "exclave.audit"},
                "logRecords": [_record(item, seen) for item in batch],
            }
        ],
    }


def _record(item: Item, seen: str) -> dict[str, Any]:
    leaf = item.leaf
    number, text = SEVERITY[level(leaf)]
    outcome = word(leaf, "outcome")
    attributes: dict[str, JsonValue] = {
        "exclave.seq": str(leaf.seq),
        "exclave.type": str(leaf.type),
        "exclave.leaf_hash": item.hash,
    }
    attributes |= _model(item)
    attributes |= {f"exclave.{name}": value for name, value in flat(dict(leaf.body), "")}
    return {
        "timeUnixNano": str(leaf.time_ns),
        "observedTimeUnixNano": seen,
        "severityNumber": number,
        "severityText": text,
        "eventName": f"exclave.{leaf.type.lower()}",
        "body": {"stringValue": f"{leaf.type} {outcome}".rstrip()},
        "attributes": _attributes(attributes),
    }


def _model(item: Item) -> dict[str, JsonValue]:
    """What the GenAI conventions have a name for."""
    body = item.leaf.body
    found: dict[str, JsonValue] = {}
    if action := word(item.leaf, "action"):
        found["gen_ai.operation.name"] = OPERATION.get(action, action)
    if name := inner(body.get("model"), "name"):
        asked = "gen_ai.request.model" if item.leaf.type == "INTENT" else "gen_ai.response.model"
        found[asked] = name
    for ours, theirs in (("tokens_in", "input_tokens"), ("tokens_out", "output_tokens")):
        count = body.get(ours)
        if isinstance(count, int) and not isinstance(count, bool):
            found[f"gen_ai.usage.{theirs}"] = count
    return found


def _attributes(values: dict[str, JsonValue] | dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": made}
        for key, value in values.items()
        if (made := _any(value)) is not None
    ]


def _any(value: JsonValue) -> dict[str, Any] | None:
    """An AnyValue in protobuf's JSON mapping, where 64-bit integers are strings."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [made for each in value if (made := _any(each))]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _attributes(value)}}
    return {"stringValue": value}
