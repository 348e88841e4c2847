"""What the two sides write to each other, in `<home>/upgrade`: a request, and its result.

upgrade/request.json       written last and whole by the agent; its presence starts the root side
upgrade/staging-<id>/      metadata/<TUF file names> and packages/<sha256>.<format>
upgrade/result.json        written by the root side, owned by the agent's user
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from exclave_agent.upgrade.errors import UpgradeRefused

FOLDER: Final = "upgrade"
"""Relative to the agent's home."""
REQUEST: Final = "request.json"
RESULT: Final = "result.json"
MAX_LETTER: Final = 64 << 10
"""Most bytes of a request or a result."""
MAX_TEXT: Final = 500
"""Most characters of a sentence in a result."""
DEADLINES: Final = (5, 3600)
"""Lowest and highest deadline that a request may set, seconds."""

REQUEST_SCHEMA: Final = "exclave.upgrade-request/v1"
RESULT_SCHEMA: Final = "exclave.upgrade-result/v1"

_ID: Final = re.compile(r"[0-9a-f]{32}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")


def staging(request_id: str) -> str:
    """Name of the folder with a request's files."""
    return f"staging-{request_id}"


@dataclass(frozen=True, slots=True)
class Request:
    """What the agent asks for. Nothing in it is believed but that it was asked."""

    id: str
    package: str
    """SHA-256 (hex) of the package to install."""
    former: str
    """That of the present version's package; empty: the root side keeps it already."""
    downgrade: bool = False
    """An older version than the present one is meant."""
    deadline: int = 0
    """Seconds that the new version gets to be healthy; 0: what the machine is set to."""

    def encode(self) -> bytes:
        """As written."""
        return _encode(REQUEST_SCHEMA, asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Raises: UpgradeRefused ("request_invalid")."""
        value = _decode(data, REQUEST_SCHEMA)
        request = cls(
            id=_text(value, "id"),
            package=_text(value, "package"),
            former=_text(value, "former"),
            downgrade=value.get("downgrade") is True,
            deadline=_number(value, "deadline"),
        )
        low, high = DEADLINES
        if (
            not _ID.fullmatch(request.id)
            or not _HEX64.fullmatch(request.package)
            or not (request.former == "" or _HEX64.fullmatch(request.former))
            or not (request.deadline == 0 or low <= request.deadline <= high)
        ):
            raise _invalid("a field is out of its range")
        return request


class Outcome(StrEnum):
    """How an upgrade ended."""

    DONE = "done"
    REVERTED = "reverted"
    """The new version was not healthy; the former one runs again."""
    FAILED = "failed"
    """Neither is healthy: somebody must look."""
    REFUSED = "refused"
    """Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a request ended."""

    id: str
    """Empty: the request could not be read."""
    present: str
    """Version before; empty where it is not known. So is `target`."""
    target: str
    outcome: Outcome
    code: str
    """Stable reason; empty when done."""
    message: str
    warnings: tuple[str, ...]
    started: int
    """Seconds since the epoch; as is `finished`."""
    finished: int

    def encode(self) -> bytes:
        """As written: the same result is always the same bytes."""
        value = asdict(self) | {
            "outcome": str(self.outcome),
            "message": self.message[:MAX_TEXT],
            "warnings": [text[:MAX_TEXT] for text in self.warnings],
        }
        value["from"], value["to"] = value.pop("present"), value.pop("target")
        return _encode(RESULT_SCHEMA, value)

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """Raises: UpgradeRefused ("request_invalid")."""
        value = _decode(data, RESULT_SCHEMA)
        warnings = value.get("warnings")
        if not isinstance(warnings, list) or not all(isinstance(w, str) for w in warnings):
            raise _invalid("warnings must be a list of strings")
        try:
            outcome = Outcome(_text(value, "outcome"))
        except ValueError as error:
            raise _invalid("outcome is not a known one") from error
        return cls(
            id=_text(value, "id"),
            present=_text(value, "from"),
            target=_text(value, "to"),
            outcome=outcome,
            code=_text(value, "code"),
            message=_text(value, "message"),
            warnings=tuple(warnings),
            started=_number(value, "started"),
            finished=_number(value, "finished"),
        )


def _encode(schema: str, value: Mapping[str, Any]) -> bytes:
    return (json.dumps({"schema": schema, **value}, sort_keys=True) + "\n").encode()


def _decode(data: bytes, schema: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid("it is not JSON") from error
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise _invalid(f"it is not of schema {schema}")
    return value


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise _invalid(f"{key} must be a string")
    return text


def _number(value: Mapping[str, Any], key: str) -> int:
    number = value.get(key)
    if not isinstance(number, int) or isinstance(number, bool):
        raise _invalid(f"{key} must be a whole number")
    return number


def _invalid(why: str) -> UpgradeRefused:
    return UpgradeRefused(f"an upgrade's letter cannot be read: {why}", code="request_invalid")
