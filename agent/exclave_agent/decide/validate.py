"""Validate: hold an answer to the JSON Schema that the request asked for."""

from __future__ import annotations

from exclave_agent.errors import BadRequest, OutputInvalid
from exclave_policy.guards.schemas import NOT_JSON, JsonSchema

_PARAM = "response_format"


class Validator:
    """One compiled schema. Compiling and validating touch no file and no network."""

    __slots__ = ("_schema",)

    def __init__(self, schema: str) -> None:
        """Raises: BadRequest naming response_format; the message never quotes the schema."""
        try:
            self._schema = JsonSchema(schema)
        except ValueError as error:
            raise BadRequest(f"{_PARAM}: {error}", param=_PARAM) from None

    def check(self, answer: str, decision: str) -> None:
        """Raises: OutputInvalid, which says where the answer breaks the schema, not how it
        reads."""
        fault = self._schema.fault(answer)
        if fault == NOT_JSON:
            raise OutputInvalid(
                "the answer is not complete JSON: allow more tokens, or ask for a simpler schema",
                decision_id=decision,
            )
        if fault:
            raise OutputInvalid(
                "the answer is JSON, and does not match the schema of response_format",
                decision_id=decision,
            )
