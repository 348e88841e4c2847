"""Reads a request as people write it down: in cases, and on the command line."""

from __future__ import annotations

from exclave_policy.errors import PolicyInvalid
from exclave_policy.fields import DATA_CLASS, HOST, MODEL, ROLE, SECRET, TOOL, Fields
from exclave_policy.model import ACTIONS, RESOURCES, UNBOUNDED, Facts, Request
from exclave_policy.source import Node, Report, parse, read_text

GIVEN = (
    "subject",
    "roles",
    "action",
    "model",
    "tool",
    "endpoint",
    "secret",
    "data_class",
    "max_tokens",
    "stream",
    "schema",
    "message_count",
    "inputs",
    "prompt_bytes",
    "tools",
    "priority",
    "runtime",
    "provider",
    "remote",
    "context_tokens",
    "personal",
    "injection",
    "workflow",
    "run",
    "minute",
    "hour",
    "weekday",
    "day",
    "month",
    "year",
)
"""Every field; what is left out is empty, 0 or false."""

_MAX_TEXT = 128
_SHAPES = {"tool": TOOL, "endpoint": HOST, "secret": SECRET}
_RUNTIMES = ("llama", "onnx", "lora", "remote")


def read_given(fields: Fields) -> Request:
    """The request that `fields`, one of `GIVEN` each, describe."""
    action = fields.choice("action", ACTIONS)
    return Request(
        subject=fields.text("subject", limit=_MAX_TEXT, default="case"),
        roles=tuple(item.value for item in fields.names("roles", shape=ROLE, empty=True)),
        action=action,
        model=fields.word("model", MODEL),
        resource=_resource(fields, action),
        data_class=fields.word("data_class", DATA_CLASS),
        max_tokens=fields.whole("max_tokens", 0, UNBOUNDED, null=True),
        stream=fields.flag("stream"),
        schema=fields.flag("schema"),
        message_count=_number(fields, "message_count"),
        inputs=_number(fields, "inputs"),
        prompt_bytes=_number(fields, "prompt_bytes"),
        tools=tuple(item.value for item in fields.names("tools", shape=TOOL, empty=True)),
        priority=_priority(fields),
        facts=Facts(
            runtime=_chosen(fields, "runtime"),
            provider=fields.text("provider", limit=_MAX_TEXT),
            remote=fields.flag("remote"),
            context_tokens=_number(fields, "context_tokens"),
        ),
        personal=tuple(item.value for item in fields.names("personal", empty=True)),
        injection=_number(fields, "injection", high=100),
        workflow=fields.text("workflow", limit=_MAX_TEXT),
        run=fields.text("run", limit=_MAX_TEXT),
        minute=_number(fields, "minute", high=59),
        hour=_number(fields, "hour", high=23),
        weekday=_number(fields, "weekday", high=6),
        day=_number(fields, "day", low=1, high=31, default=1),
        month=_number(fields, "month", low=1, high=12, default=1),
        year=_number(fields, "year", low=1970, high=9999, default=1970),
    )


def request_from(text: str) -> Request:
    """One request in YAML or JSON. Raises: PolicyInvalid listing every fault."""
    report = Report("given")
    clean = read_text(text.encode("utf-8", "surrogatepass"), report)
    root = None if clean is None else parse(clean, report)
    request = None
    if root is not None:
        request = read_given(as_given(root, "", report))
    if request is None or report.problems:
        raise PolicyInvalid(report.all())
    return request


def as_given(node: Node, path: str, report: Report) -> Fields:
    """The fields of a request; unknown and missing ones are reported."""
    return Fields(node, path, report, known=GIVEN, required=("roles", "action", "model"))


def _resource(fields: Fields, action: str) -> str:
    """The tool, endpoint or secret, where the action is about one."""
    found = ""
    for about, name in zip(RESOURCES, _SHAPES, strict=True):
        node = fields.get(name)
        if node is not None and action and action != about:
            fix = f"it belongs to the action {about}"
            fields.wrong(node, name, f"{action} is about no {name}", fix)
        elif node is None and action == about:
            fields.report.add(
                fields.node, fields.path, f"field {name!r} is missing", f"add {name!r}"
            )
        value = fields.word(name, _SHAPES[name])
        found = value if action == about else found
    return found


def _number(
    fields: Fields, name: str, *, low: int = 0, high: int = UNBOUNDED, default: int = 0
) -> int:
    value = fields.whole(name, low, high)
    return default if value is None else value


def _priority(fields: Fields) -> str:
    return fields.choice("priority", ("interactive", "batch")) or "interactive"


def _chosen(fields: Fields, name: str) -> str:
    return fields.choice(name, _RUNTIMES) if fields.get(name) is not None else ""
