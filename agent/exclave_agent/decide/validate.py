"""Validate: hold an answer to the JSON Schema that the request asked for."""

from __future__ import annotations

from typing import NoReturn

import jsonschema_rs
import msgspec

from exclave_agent.errors import BadRequest, OutputInvalid

MAX_SCHEMA_BYTES = 64 * 1024
_PARAM = "response_format"
_LINEAR = jsonschema_rs.RegexOptions()
"""Patterns run on an engine without backtracking: a caller's pattern cannot stall the agent."""


class Validator:
    """One compiled schema. Compiling and validating touch no file and no network."""

    __slots__ = ("_schema",)

    def __init__(self, schema: str) -> None:
        """Raises: BadRequest naming response_format; the message never quotes the schema."""
        if len(schema.encode()) > MAX_SCHEMA_BYTES:
            raise BadRequest(
                f"response_format: the schema is larger than {MAX_SCHEMA_BYTES} bytes",
                param=_PARAM,
            )
        try:
            document = msgspec.json.decode(schema)
        except (ValueError, RecursionError):
            raise BadRequest("response_format: the schema is not JSON", param=_PARAM) from None
        if not isinstance(document, dict):
            raise BadRequest("response_format: the schema is not an object", param=_PARAM)
        try:
            self._schema = jsonschema_rs.Draft202012Validator(
                document, retriever=_refuse, pattern_options=_LINEAR
            )
        except ValueError:  # includes jsonschema_rs.ValidationError and its recursion limit
            raise BadRequest(
                "response_format: not a JSON Schema (2020-12) that stands by itself: check "
                "its keywords, its patterns (no look-around) and that no $ref leaves it",
                param=_PARAM,
            ) from None

    def check(self, answer: str, decision: str) -> None:
        """Raises: OutputInvalid, which says where the answer breaks the schema, not how it
        reads."""
        try:
            value = msgspec.json.decode(answer)
        except (ValueError, RecursionError):
            raise OutputInvalid(
                "the answer is not complete JSON: allow more tokens, or ask for a simpler schema",
                decision_id=decision,
            ) from None
        try:
            valid = self._schema.is_valid(value)
        except ValueError:  # numbers or nesting beyond what the validator takes
            valid = False
        if not valid:
            raise OutputInvalid(
                "the answer is JSON, and does not match the schema of response_format",
                decision_id=decision,
            )


def _refuse(uri: str) -> NoReturn:
    """A schema from the network or the disk would be read on a caller's word."""
    raise KeyError("schemas are not fetched")
