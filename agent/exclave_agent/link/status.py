"""What each gRPC status of the coordinator means here: the one table of this room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

import grpc

from exclave_agent.errors import AuditDiverged, IdentityError, LinkError

CODE_METADATA: Final = "exclave-code"
"""Trailing metadata with the coordinator's own stable code."""
EVIDENCE_METADATA: Final = "exclave-evidence-bin"
"""Trailing metadata: the head that another process signed."""
RETRY_METADATA: Final = "retry-after"
"""Trailing metadata: seconds to stay away, decimal."""

Status = grpc.StatusCode


class Meaning(NamedTuple):
    """Our code, and what the operator of this machine can do about it."""

    code: str
    advice: str


# By the coordinator's code, whatever the call: who we are, and whether we may.
_IDENTITY: Final = {
    "token_unknown": Meaning("token_unknown", "check the token, or ask for a new one"),
    "token_spent": Meaning("token_spent", "another machine used this token: ask for a new one"),
    "token_expired": Meaning("token_expired", "ask for a new token"),
    "token_revoked": Meaning("token_revoked", "ask for a new token"),
    "token_agent": Meaning("token_wrong_agent", "the token is for another agent name"),
    "wrong_tenant": Meaning("wrong_tenant", "this identity belongs to another tenant"),
    "banned": Meaning("banned", "an operator banned this agent; it cannot come back"),
    "evicted": Meaning("evicted", "an operator evicted this agent; join again with a new token"),
    "certificate_expired": Meaning("expired", "the certificate ended; recovery is under way"),
    "key_replaced": Meaning("key_replaced", "another machine joined under this name since"),
    "not_an_agent": Meaning("not_enrolled", "the coordinator does not know this agent: join again"),
    "name_taken": Meaning("name_taken", "choose another name, or have the other agent evicted"),
    "bad_proof": Meaning("recovery_refused", "the key is not the one bound at enrollment"),
    "clock_skew": Meaning("clock_skew", "set this machine's clock"),
    "no_certificate": Meaning("unauthenticated", "join again with a new token"),
    "not_ours": Meaning("unauthenticated", "the certificate is not of this coordinator's CA"),
}

# By the coordinator's code: of the log, not of us.
_FENCED: Final = Meaning("fenced", "this home is a copy, or there is one of it at work")
_LOG: Final = {
    "fenced": _FENCED,
    "epoch_not_open": Meaning("epoch_not_open", "ask an operator: exclave agent reopen"),
    "log_of_another_key": Meaning(
        "log_of_another_key",
        "ask an operator (exclave agent reopen), then run `exclave-agent audit recover`",
    ),
}

# By call and status, where the .proto gives that status a meaning of its own.
_CALLS: Final = {
    ("Enroll", Status.UNAUTHENTICATED): _IDENTITY["token_unknown"],
    ("Enroll", Status.PERMISSION_DENIED): Meaning("enroll_denied", "ask for a new token"),
    ("Recover", Status.UNAUTHENTICATED): _IDENTITY["bad_proof"],
    ("Recover", Status.PERMISSION_DENIED): Meaning("recovery_refused", "ask an operator"),
    ("Recover", Status.NOT_FOUND): Meaning(
        "recovery_refused", "the coordinator knows no such agent"
    ),
    ("Recover", Status.FAILED_PRECONDITION): _IDENTITY["clock_skew"],
    ("Renew", Status.PERMISSION_DENIED): Meaning("renewal_refused", "ask an operator"),
    ("Append", Status.INVALID_ARGUMENT): Meaning("leaf_invalid", ""),
    ("Append", Status.OUT_OF_RANGE): Meaning("gap", ""),
    ("Append", Status.ALREADY_EXISTS): Meaning("leaf_conflict", ""),
    ("Append", Status.RESOURCE_EXHAUSTED): Meaning("batch_too_large", ""),
    ("BeginTerm", Status.ABORTED): Meaning("term_stale", ""),
    ("BeginTerm", Status.DATA_LOSS): Meaning("term_inconsistent", ""),
    ("BeginTerm", Status.PERMISSION_DENIED): Meaning("term_denied", ""),
    ("Witness", Status.ABORTED): Meaning("witness_stale", ""),
    ("Witness", Status.FAILED_PRECONDITION): Meaning("witness_missing_leaves", ""),
    ("Witness", Status.DATA_LOSS): Meaning("witness_inconsistent", ""),
    ("Witness", Status.INVALID_ARGUMENT): Meaning("witness_invalid", ""),
    ("Witness", Status.PERMISSION_DENIED): Meaning("witness_denied", ""),
    ("Read", Status.OUT_OF_RANGE): Meaning("beyond_end", ""),
}

_STATUSES: Final = {
    Status.UNAVAILABLE: Meaning("unreachable", ""),
    Status.DEADLINE_EXCEEDED: Meaning("timeout", ""),
    Status.UNAUTHENTICATED: Meaning("unauthenticated", ""),
    Status.PERMISSION_DENIED: Meaning("denied", ""),
    Status.NOT_FOUND: Meaning("not_found", ""),
    Status.RESOURCE_EXHAUSTED: Meaning("busy", ""),
    Status.INVALID_ARGUMENT: Meaning("refused", ""),
    Status.FAILED_PRECONDITION: Meaning("refused", ""),
    Status.UNIMPLEMENTED: Meaning("unimplemented", "the coordinator is older than this agent"),
    Status.CANCELLED: Meaning("unreachable", ""),
}
_OTHER: Final = Meaning("link_error", "")

_MAX_DETAIL: Final = 300
_MAX_EVIDENCE: Final = 8192


def link_error(error: grpc.aio.AioRpcError, call: str) -> LinkError:
    """The error of a call whose port raises LinkError only."""
    meaning, text = _read(error, call)
    return LinkError(text, code=meaning.code)


def audit_error(error: grpc.aio.AioRpcError, call: str) -> LinkError:
    """As `link_error`; that another process holds the log comes with its signed head."""
    meaning, text = _read(error, call)
    if meaning is _FENCED:
        note = _bytes(error, EVIDENCE_METADATA)
        return AuditDiverged(text, code=meaning.code, evidence=note or text.encode(), note=note)
    return LinkError(text, code=meaning.code)


def identity_error(error: grpc.aio.AioRpcError, call: str) -> IdentityError | LinkError:
    """The error of Enroll, Renew, Recover or Session: IdentityError where it is about us."""
    meaning, text = _read(error, call)
    about_us = meaning in _IDENTITY.values() or (call, error.code()) in _CALLS
    return (IdentityError if about_us else LinkError)(text, code=meaning.code)


def retry_after(error: grpc.aio.AioRpcError) -> float:
    """Seconds that the coordinator asks us to stay away; 0 when it does not."""
    text = _trailer(error, RETRY_METADATA)
    return float(text) if text.isdecimal() and len(text) < 7 else 0.0


def _read(error: grpc.aio.AioRpcError, call: str) -> tuple[Meaning, str]:
    status = error.code()
    meaning = (
        _IDENTITY.get(_trailer(error, CODE_METADATA))
        or _LOG.get(_trailer(error, CODE_METADATA))
        or _CALLS.get((call, status))
        or _STATUSES.get(status, _OTHER)
    )
    detail = _printable(error.details() or "")
    text = f"coordinator: {call}: {status.name.lower()}" + (f": {detail}" if detail else "")
    return meaning, f"{text}; {meaning.advice}" if meaning.advice else text


def _trailer(error: grpc.aio.AioRpcError, key: str) -> str:
    # Iterating a Metadata gives (key, value) pairs, which its type stub does not say.
    pairs: Iterable[tuple[str, str | bytes]] = cast("Any", error.trailing_metadata()) or ()
    for name, value in pairs:
        if name == key:
            return value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return ""


def _bytes(error: grpc.aio.AioRpcError, key: str) -> bytes:
    pairs: Iterable[tuple[str, str | bytes]] = cast("Any", error.trailing_metadata()) or ()
    for name, value in pairs:
        if name == key and isinstance(value, bytes):
            return value[:_MAX_EVIDENCE]
    return b""


def _printable(text: str) -> str:
    """The peer's words, bounded and without control characters: they end up in our logs."""
    return "".join(c for c in text[:_MAX_DETAIL] if c.isprintable())
