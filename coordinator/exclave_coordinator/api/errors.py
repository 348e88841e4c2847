"""The one table from our errors to gRPC statuses."""

from __future__ import annotations

import logging
from typing import Any, Final, NoReturn

import grpc

from exclave_coordinator.errors import (
    BeyondEnd,
    CoordinatorError,
    Denied,
    Exists,
    Fenced,
    Inconsistent,
    Invalid,
    NotFound,
    Precondition,
    Replaced,
    Stale,
    StorageError,
    StorageFull,
    TooMuch,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

CODE_METADATA: Final = "exclave-code"
"""Trailing metadata: the error's stable code."""
RETRY_METADATA: Final = "retry-after"
"""Trailing metadata: seconds to stay away, decimal."""
WITNESS_SIZE_METADATA: Final = "witness-size-bin"
"""Trailing metadata of a stale witness request: cosigned size, decimal ASCII."""
EVIDENCE_METADATA: Final = "exclave-evidence-bin"
"""Trailing metadata of a fenced caller: the head that another process signed."""

STATUSES: Final[dict[type[CoordinatorError], grpc.StatusCode]] = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Exists: grpc.StatusCode.ALREADY_EXISTS,
    Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    BeyondEnd: grpc.StatusCode.OUT_OF_RANGE,
    TooMuch: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Stale: grpc.StatusCode.ABORTED,
    Replaced: grpc.StatusCode.ABORTED,
    Inconsistent: grpc.StatusCode.DATA_LOSS,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StorageError: grpc.StatusCode.UNAVAILABLE,
}

_MAX_DETAIL: Final = 2000
"""Most characters of a message: clients limit the size of trailing metadata."""
_MAX_EVIDENCE: Final = 4000


def status_of(error: CoordinatorError) -> grpc.StatusCode:
    """The status of an error; classes that the table does not know are our own faults."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return grpc.StatusCode.INTERNAL


async def abort(context: Any, error: Exception) -> NoReturn:
    """End the call with the error's status; what we did not foresee stays in our log."""
    if not isinstance(error, CoordinatorError):
        log.error("call failed", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "the coordinator failed: see its log")
        raise AssertionError("abort always raises")  # noqa: TRY004 (no argument is checked here)
    if isinstance(error, StorageError):
        log.error("storage (%s): %s", error.code, error.message)
    trailing: list[tuple[str, str | bytes]] = [(CODE_METADATA, error.code)]
    if isinstance(error, TooMuch) and error.retry_after is not None:
        trailing.append((RETRY_METADATA, str(error.retry_after)))
    if isinstance(error, Stale):
        trailing.append((WITNESS_SIZE_METADATA, str(error.size).encode()))
    if isinstance(error, Fenced) and len(error.note) <= _MAX_EVIDENCE:
        trailing.append((EVIDENCE_METADATA, error.note))
    await context.abort(status_of(error), error.message[:_MAX_DETAIL], tuple(trailing))
    raise AssertionError("abort always raises")
