"""Notes: what the guards of one decision found, for its record."""

from __future__ import annotations

from exclave_policy.guards.checks import Failure
from exclave_policy.kinds.validators import Validator
from exclave_protocol.approval import Requirement
from exclave_protocol.canonical import JsonValue

MAX_NOTES = 64
"""Of each list; a leaf has a size of its own to keep to."""


class Notes:
    """Names are of signed documents; reasons hold no data."""

    __slots__ = ("_failed", "_left_out", "_passed", "approvals", "escalated", "requires")

    def __init__(self) -> None:
        self._failed: list[JsonValue] = []
        self._passed: dict[str, None] = {}
        self._left_out = 0
        self.approvals: tuple[str, ...] = ()
        """What the answer waits for."""
        self.requires: tuple[Requirement, ...] = ()
        """What those ask for, as they stand now."""
        self.escalated = ""
        """The validator that handed the decision to a person."""

    def passed(self, validator: Validator) -> None:
        """It found nothing wrong."""
        if len(self._passed) < MAX_NOTES:
            self._passed[validator.name] = None

    def failed(self, validator: Validator, failure: Failure, model: str) -> None:
        """It found something. `model`: whose answer it was; "": it was the input."""
        self._passed.pop(validator.name, None)
        if len(self._failed) == MAX_NOTES:
            self._left_out += 1
            return
        self._failed.append(
            {
                "validator": validator.name,
                "stage": validator.stage,
                "mode": validator.mode,
                "check": failure.check,
                "place": failure.place,
                "reason": failure.reason,
                "model": model or None,
            }
        )

    def body(self) -> dict[str, JsonValue]:
        """For the RESULT; empty where no guard had anything to say."""
        found: dict[str, JsonValue] = {}
        if self._failed or self._passed:
            found["guards"] = {
                "failed": self._failed,
                "passed": list(self._passed),
                "left_out": self._left_out,
                "escalated": self.escalated or None,
            }
        if self.approvals:
            found["approvals"] = list(self.approvals)
            found["requires"] = [each.to_json() for each in self.requires]
        return found
