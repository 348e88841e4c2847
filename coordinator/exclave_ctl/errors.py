"""What an operator is told when something fails: one line of error, one of what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import grpc


class CtlError(Exception):
    """A command was refused or failed (exit code 1).

    `code` is the gRPC status name when the coordinator answered, else empty.
    """

    def __init__(self, message: str, hint: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


# gRPC status -> (what happened, what to do). The coordinator's own sentence, where it
# gives one, follows the first and is the more precise of the two.
_STATUS: Final[dict[str, tuple[str, str]]] = {
    "UNAVAILABLE": (
        "cannot reach the coordinator",
        "check that `exclave-coordinator serve` runs and that the profile's endpoint is right",
    ),
    "DEADLINE_EXCEEDED": (
        "the coordinator did not answer in time",
        "run the command again: every command may be repeated",
    ),
    "UNAUTHENTICATED": (
        "the coordinator does not accept this profile's certificate",
        "it may have expired: ask an admin to run `exclave operator issue`",
    ),
    "PERMISSION_DENIED": (
        "this operator's role may not do that",
        "use a profile with the role that the message names, or ask an admin",
    ),
    "NOT_FOUND": (
        "not found",
        "check the spelling with `exclave tenant list` or `exclave agent list`",
    ),
    "ALREADY_EXISTS": ("already exists", "choose another name, or go on with the existing one"),
    "INVALID_ARGUMENT": ("the coordinator refused the request", "correct what the message names"),
    "FAILED_PRECONDITION": (
        "the coordinator cannot do that yet",
        "do first what the message names, then run the command again",
    ),
    "RESOURCE_EXHAUSTED": ("the coordinator is overloaded or full", "try again in a minute"),
    "ABORTED": ("another operator was faster", "run the command again"),
    "OUT_OF_RANGE": ("out of range", "correct what the message names"),
    "UNIMPLEMENTED": (
        "this coordinator does not know that call",
        "update the coordinator to this version of exclave",
    ),
    "CANCELLED": ("the call was cancelled", "run the command again"),
    "DATA_LOSS": ("the coordinator found damaged data", "run `exclave-coordinator doctor`"),
    "INTERNAL": ("the coordinator failed", "its log has the reason"),
    "UNKNOWN": ("the coordinator failed", "its log has the reason"),
}


def from_status(code: str, details: str) -> CtlError:
    """The error for a gRPC status name and the server's sentence."""
    message, hint = _STATUS.get(code, (f"the coordinator answered {code}", "see its log"))
    return CtlError(f"{message}: {details}" if details else message, hint, code=code)


@contextmanager
def rpc() -> Iterator[None]:
    """Turn gRPC's errors into ours. Raises: CtlError."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise _from_rpc(error) from error


def _from_rpc(error: grpc.RpcError) -> CtlError:
    import grpc

    if not isinstance(error, grpc.Call):
        return CtlError("the connection to the coordinator broke", "run the command again")
    call: Any = error  # grpc's synchronous API carries no annotations
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and _is_tls(details):
        return CtlError(
            "the coordinator and this profile do not trust each other (TLS handshake failed)",
            "the profile must come from this coordinator; its certificate may have expired: "
            "ask an admin to run `exclave operator issue`",
            code=code.name,
        )
    # gRPC's own connection sentences hold peers' addresses and C++ detail: of no use here.
    return from_status(code.name, "" if code is grpc.StatusCode.UNAVAILABLE else details)


def _is_tls(details: str) -> bool:
    return any(word in details for word in ("SSL", "TLS", "certificate", "handshak", "verify"))
