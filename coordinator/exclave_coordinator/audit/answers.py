"""The one table between our refusals and the HTTP statuses of C2SP tlog-witness, both ways."""

from __future__ import annotations

from typing import Final

from exclave_coordinator.errors import (
    CoordinatorError,
    Denied,
    Inconsistent,
    Invalid,
    NotFound,
    Precondition,
    Refused,
    Stale,
    StorageError,
    TooMuch,
    Unavailable,
)
from exclave_protocol.errors import NoteError
from exclave_protocol.witness import SIZE_TYPE, encode_size, parse_size

STATUSES: Final[dict[type[CoordinatorError], int]] = {
    Invalid: 400,
    Denied: 403,
    NotFound: 404,
    Stale: 409,
    TooMuch: 413,
    Inconsistent: 422,
    # Not of the specification, whose witnesses hold no leaves: an agent's must be uploaded first.
    Precondition: 424,
    Unavailable: 503,
    StorageError: 503,
}
"""A class stands for those below it. What is not here is a fault of ours: 500."""

TEXT: Final = "text/plain; charset=utf-8"


def status_of(error: Exception) -> int:
    """The status that tells an error."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def answer_of(error: CoordinatorError) -> tuple[int, str, bytes]:
    """Status, content type and body that tell a refusal."""
    if isinstance(error, Stale):
        return status_of(error), SIZE_TYPE, encode_size(error.size)
    return status_of(error), TEXT, f"{error.message}\n".encode()


def error_of(status: int, content_type: str, body: bytes) -> Refused:
    """The refusal that an outside witness's answer means; its words are not repeated."""
    if status == STATUSES[Stale]:
        # Some say the size without its content type, which the specification demands: the size
        # is only where the next proof begins, and is proven like any other.
        try:
            return Stale("the witness cosigned another size", size=parse_size(body))
        except NoteError:
            return Unavailable(f"the witness answered 409 without a size ({content_type[:64]!r})")
    told: dict[int, Refused] = {
        400: Invalid("the witness cannot read our request"),
        403: Denied("the witness does not take our log's key", code="signature"),
        404: NotFound("the witness does not know our log: its operator must be told the vkey"),
        422: Inconsistent("the witness cosigned a tree that ours does not extend"),
    }
    return told.get(status) or Unavailable(f"the witness answered with status {status}")
