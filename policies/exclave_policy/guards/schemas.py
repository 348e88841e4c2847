"""JSON Schemas that stand by themselves: nothing is fetched, and no pattern stalls."""

from __future__ import annotations

from typing import NoReturn

import jsonschema_rs
import msgspec

MAX_SCHEMA_BYTES = 64 * 1024
NOT_JSON = "is not complete JSON"
_LINEAR = jsonschema_rs.RegexOptions()
"""Patterns run on an engine without backtracking: a foreign pattern cannot stall the agent."""


class JsonSchema:
    """One compiled schema (2020-12). Compiling and validating touch no file and no network."""

    __slots__ = ("_schema",)

    def __init__(self, text: str) -> None:
        """Raises: ValueError saying what is wrong; it never quotes the schema."""
        if len(text.encode()) > MAX_SCHEMA_BYTES:
            raise ValueError(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
        try:
            document = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            raise ValueError("the schema is not JSON") from None
        if not isinstance(document, dict):
            raise ValueError("the schema is not an object")  # noqa: TRY004 - of the text
        try:
            self._schema = jsonschema_rs.Draft202012Validator(
                document, retriever=_refuse, pattern_options=_LINEAR
            )
        except ValueError:  # includes jsonschema_rs.ValidationError and its recursion limit
            raise ValueError(
                "not a JSON Schema (2020-12) that stands by itself: check its keywords, its "
                "patterns (no look-around) and that no $ref leaves it"
            ) from None

    def fault(self, text: str) -> str:
        """What is wrong with `text` as JSON of this schema, without its words; "" when nothing."""
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            return NOT_JSON
        try:
            valid = self._schema.is_valid(value)
        except ValueError:  # numbers or nesting beyond what the validator takes
            valid = False
        return "" if valid else "is JSON, and does not match the schema"


def fault(text: str) -> str:
    """What is wrong with a schema; "" when nothing is."""
    try:
        JsonSchema(text)
    except ValueError as error:
        return str(error)
    return ""


def _refuse(uri: str) -> NoReturn:
    """A schema from the network or the disk would be read on a document's word."""
    raise KeyError("schemas are not fetched")
