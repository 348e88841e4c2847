"""JSON Schemas from callers: read, bounded, and told to llguidance in words it may trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exclave_agent.runtimes.engine import Refused

MAX_SCHEMA = 64 << 10
"""Characters of a JSON Schema that constrains sampling."""

MAX_PATTERN = 1024
"""Characters of a `pattern`."""
MAX_PROPERTIES = 512
"""Of one object."""
MAX_MULTIPLE = 10_000
"""Largest `multipleOf`: its automaton has as many states."""

_OPTIONS = {
    # Models break lines and indent; without a bound, one that is at a loss does so forever.
    "whitespace_pattern": r"( |\n {0,32})?",
    "whitespace_flexible": True,
    # "oneOf" as "anyOf": that exactly one matches is for the validator to see.
    "coerce_one_of": True,
}


def read_schema(text: str, param: str, limit: int = MAX_SCHEMA) -> dict[str, Any]:
    """The schema as an object, of a size and shape that can be compiled in no time.

    Raises: Refused("invalid_value", param=param), never quoting it.
    """
    if len(text) > limit:
        raise refused(param, f"has {len(text)} characters, over the limit of {limit}")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise refused(param, "is not JSON, or nested too deeply") from None
    if not isinstance(schema, dict):
        raise refused(param, "is not an object")
    _bound(schema, param)
    return schema


def _bound(schema: dict[str, Any], param: str) -> None:
    todo: list[tuple[Any, int]] = [(schema, 0)]
    while todo:
        one, depth = todo.pop()
        if depth > 64:
            raise refused(param, "is nested over 64 levels deep")
        if isinstance(one, list):
            todo += [(item, depth + 1) for item in one]
        elif isinstance(one, dict):
            _bound_object(one, param)
            todo += [(item, depth + 1) for item in one.values()]


def _bound_object(one: dict[str, Any], param: str) -> None:
    pattern = one.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise refused(param, f"has a pattern of {len(pattern)} characters, over {MAX_PATTERN}")
    properties = one.get("properties")
    if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
        raise refused(
            param, f"has an object of {len(properties)} properties, over {MAX_PROPERTIES}"
        )
    multiple = one.get("multipleOf")
    if isinstance(multiple, int | float) and not 1e-9 <= multiple <= MAX_MULTIPLE:
        raise refused(param, f"has a multipleOf that is not within 1e-9 to {MAX_MULTIPLE}")


def inline(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """JSON for llguidance's `%json`. `lenient`: keywords that cannot be enforced are passed
    over, not refused; the caller of a function checks its arguments anyway."""
    return json.dumps({**schema, "x-guidance": {**_OPTIONS, "lenient": lenient}})


def refused(param: str, why: str) -> Refused:
    """A schema that is not enforced."""
    name = "json_schema" if param == "response_format" else param
    return Refused("invalid_value", f"{name}: {why}", param=param)
