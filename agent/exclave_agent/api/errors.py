"""The only table from errors to HTTP statuses, and the two shapes in which they are told.

Messages come from the error tree, whose texts name fields and shapes and never hold raw data.
An error that is not in the tree is told as "internal error", without its text.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from exclave_agent import errors as tree
from exclave_agent.errors import AgentError, BadRequest, PolicyDenied, RequestError, Unavailable

_log = logging.getLogger(__name__)


class NoSuchRoute(RequestError):
    """No handler at that path."""

    code = "unknown_url"


class MethodNotAllowed(RequestError):
    """The path exists, for another method."""

    code = "method_not_allowed"


class BodyTooLarge(RequestError):
    """The request body is over the limit (number given)."""

    code = "body_too_large"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    code = "body_timeout"


class UnsupportedMedia(RequestError):
    """A content encoding that is not understood."""

    code = "unsupported_media"


class ForbiddenPeer(RequestError):
    """The endpoint serves this machine only."""

    code = "forbidden"


class Internal(AgentError):
    """Something that no other error describes; its text says nothing of the cause."""

    code = "internal"


class ClientGone(Exception):  # not an error to tell: nobody is there to be told
    """The caller closed the connection, or stopped reading."""


_INVALID = "invalid_request_error"
_STATUS: dict[type[AgentError], tuple[int, str]] = {
    tree.Unauthenticated: (401, "authentication_error"),
    tree.PolicyDenied: (403, "permission_error"),
    ForbiddenPeer: (403, "permission_error"),
    tree.UnknownModel: (404, _INVALID),
    NoSuchRoute: (404, _INVALID),
    MethodNotAllowed: (405, _INVALID),
    BodyTimeout: (408, _INVALID),
    BodyTooLarge: (413, _INVALID),
    UnsupportedMedia: (415, _INVALID),
    tree.ApprovalNeeded: (403, "permission_error"),
    tree.ReviewDenied: (403, "permission_error"),
    tree.AnswerRefused: (403, "permission_error"),
    tree.NoSuchReview: (404, _INVALID),
    tree.ReviewClosed: (409, _INVALID),
    tree.AnswerGone: (410, _INVALID),
    tree.InputRefused: (422, _INVALID),
    tree.OutputInvalid: (422, "output_invalid_error"),
    tree.Quarantined: (422, _INVALID),
    tree.BudgetExceeded: (429, "insufficient_quota"),
    tree.TooManyTokens: (400, _INVALID),
    tree.RequestError: (400, _INVALID),
    tree.Overloaded: (429, "rate_limit_error"),
    tree.WorkerCrashed: (502, "server_error"),
    tree.RemoteFailed: (502, "server_error"),
    tree.DeadlineExceeded: (504, "timeout_error"),
    tree.Unavailable: (503, "server_error"),
    tree.LogFrozen: (503, "storage_error"),
    tree.StorageFull: (507, "storage_error"),
    tree.StorageError: (500, "storage_error"),
    AgentError: (500, "server_error"),
}
"""The most specific class of an error decides; OpenAI's names for the types where it has one."""

RETRY_AFTER = 1
"""Seconds, where an error says "later" and not when."""
_PARAMS: dict[type[AgentError], str] = {
    tree.UnknownModel: "model",
    tree.TooManyTokens: "max_tokens",
}


@dataclass(frozen=True, slots=True)
class Told:
    """An error as a caller gets it."""

    status: int
    type: str
    message: str
    code: str
    param: str | None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def openai(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def v2(self) -> dict[str, Any]:
        """The Open Inference Protocol's error object."""
        return {"error": self.message}


def tell(error: Exception, request_id: str) -> Told:
    """How `error` is told. One that is not of our tree is logged by type and place only: its
    text may hold what the request held."""
    if not isinstance(error, AgentError):
        _log.error("request %s: %s", request_id, tree.unforeseen(error))
        error = Internal(f"internal error; the agent's log names it beside request {request_id}")
    status, kind = next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)
    param = error.param if isinstance(error, BadRequest) else _PARAMS.get(type(error))
    headers: list[tuple[bytes, bytes]] = []
    wait = error.retry_after if isinstance(error, Unavailable | tree.BudgetExceeded) else None
    if wait is None and isinstance(error, Unavailable):
        wait = RETRY_AFTER
    if wait is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(wait))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="exclave"'))
    if isinstance(error, PolicyDenied):
        headers.append((b"x-exclave-rule", error.rule.encode("ascii", "replace")))
    if isinstance(error, tree.InputRefused | tree.OutputInvalid) and error.guard:
        headers.append((b"x-exclave-guard", error.guard.encode("ascii", "replace")))
    if isinstance(error, tree.ApprovalNeeded):
        headers.append((b"x-exclave-approval", error.approval.encode("ascii", "replace")))
    return Told(status, kind, error.message, error.code, param, tuple(headers))
