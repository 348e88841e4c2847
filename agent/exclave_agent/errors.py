"""Every way in which the agent says no, as one tree; `api/errors.py` alone maps it to statuses.

    AgentError
    |- RequestError              the caller must change the request
    |  |- BadRequest             malformed or unsupported field
    |  |- Unauthenticated        no key, or a key we do not know
    |  |- PolicyDenied           the signed policy says no (recorded)
    |  |- UnknownModel           no such model in the active release
    |  |- TooManyTokens          prompt and answer do not fit (numbers given)
    |  |- InputRefused           a guard of the policy refused what was sent (recorded)
    |  |- OutputInvalid          the answer failed its validator (recorded)
    |  |- ApprovalNeeded         the answer waits for people, and no words can stand in for it
    |  |- BudgetExceeded         the worst case does not fit what is left (numbers given)
    |  `- Quarantined            this request killed the model's worker twice
    |- Unavailable               try later; the request was fine
    |  |- NoRelease              nothing verified to run, or the offline grace ended
    |  |- Overloaded             a bounded queue is full (retry_after given)
    |  |- WorkerCrashed          the model's process died during this request
    |  |- DeadlineExceeded       the caller's own time ran out
    |  |- NoMemory               the model does not fit beside those in use now
    |  |- RemoteFailed           a remote model's endpoint failed or cannot be reached
    |  `- NoTarget               every target of the route is open, failed or not permitted
    |- StorageError              a record could not be made durable: the decision is refused
    |  |- StorageFull            the disk is full
    |  |- LogFrozen              the log is not the one that was cosigned, or is not known to be
    |  `- StorageForeign         the database file is not ours, damaged, or newer than we are
    |- ReleaseRefused            a release failed verification or activation (code says how)
    |  `- ModelLoadFailed        the model file did not load (the worker may have died)
    |- IdentityError             enrollment or certificate trouble (code says what)
    `- LinkError                 the coordinator cannot be reached or answered wrongly
       `- AuditDiverged          its view of our log is not ours (evidence is kept)

Messages are lower case, name the field and the value's shape, and never hold raw data.
"""

from __future__ import annotations

import traceback


def unforeseen(error: BaseException) -> str:
    """An error that is not in the tree, as far as it may be told: its type and where it came
    from. Its text stays untold: it may hold what it was about."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


class AgentError(Exception):
    """Root of the tree. `code` is stable and may be matched by programs."""

    code: str = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class RequestError(AgentError):
    """The caller must change the request."""

    code = "bad_request"


class BadRequest(RequestError):
    """A malformed or unsupported field, named in `param`."""

    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class Unauthenticated(RequestError):
    """No API key, or one that is unknown or revoked."""

    code = "invalid_api_key"


class PolicyDenied(RequestError):
    """The policy denied the request; `rule` is the rule's id or "default-deny"."""

    code = "policy_denied"

    def __init__(self, message: str, *, rule: str, decision_id: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.decision_id = decision_id


class UnknownModel(RequestError):
    """The active release has no model of that name for that action."""

    code = "model_not_found"


class TooManyTokens(RequestError):
    """Prompt plus answer exceed the model's context or the policy's cap."""

    code = "context_length_exceeded"


class InputRefused(RequestError):
    """A validator or a redaction of the policy refused what was sent; `guard` is its name. The
    message says what kind of thing was found, never what."""

    code = "input_refused"
    guard = ""

    def __init__(self, message: str, *, guard: str, decision_id: str) -> None:
        super().__init__(message)
        self.guard = guard
        self.decision_id = decision_id


class ApprovalNeeded(RequestError):
    """The answer is made and recorded, and waits for a person: `approval` is the document."""

    code = "approval_needed"
    approval = ""

    def __init__(self, message: str, *, approval: str, decision_id: str) -> None:
        super().__init__(message)
        self.approval = approval
        self.decision_id = decision_id


class ReviewDenied(RequestError):
    """The caller may not act on that decision: not a reviewer, not of the role, or its asker.

    Codes: not_reviewer, reviewer_unregistered, asker_may_not_approve.
    """

    code = "not_reviewer"


class NoSuchReview(RequestError):
    """No decision of that id waits for people, or ever did, as far as the caller may know."""

    code = "unknown_review"


class ReviewClosed(RequestError):
    """The decision waits no more, or the reviewer has acted on it already.

    Codes: review_closed, already_reviewed, review_changed.
    """

    code = "review_closed"


class AnswerRefused(RequestError):
    """People refused the answer, or nobody approved it in time.

    Codes: answer_refused, approval_expired.
    """

    code = "answer_refused"


class AnswerGone(RequestError):
    """The answer was released, and its value is not kept any more."""

    code = "answer_gone"


class OutputInvalid(RequestError):
    """The model's answer failed the validator that the request, or the policy, asked for."""

    code = "output_invalid"
    guard = ""
    """The policy's validator; "" when it was the request's own schema."""

    def __init__(self, message: str, *, decision_id: str, guard: str = "") -> None:
        super().__init__(message)
        self.decision_id = decision_id
        self.guard = guard


class BudgetExceeded(RequestError):
    """The worst case of this request does not fit what is left of a budget, which is named."""

    code = "budget_exceeded"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds until the budget's next period; None: it does not renew."""


class Quarantined(RequestError):
    """This very request killed the model's worker twice: it is not tried again."""

    code = "request_quarantined"


class Unavailable(AgentError):
    """The request was fine; the agent cannot serve it now."""

    code = "unavailable"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class NoRelease(Unavailable):
    """No verified release to run, or its offline grace has ended."""

    code = "no_release"


class Overloaded(Unavailable):
    """A bounded queue is full."""

    code = "overloaded"


class WorkerCrashed(Unavailable):
    """The model's worker process died while it held this request."""

    code = "worker_crashed"


class DeadlineExceeded(Unavailable):
    """The time that the caller gave ran out before the answer was complete."""

    code = "deadline_exceeded"


class NoMemory(Unavailable):
    """The model is not loaded, and what it takes is not free beside the models in use."""

    code = "no_memory"


class RemoteFailed(Unavailable):
    """A remote model's endpoint refused, failed or cannot be reached.

    Codes: remote_unreachable, remote_timeout, remote_refused (it says the request is wrong),
    remote_unauthorized, remote_overloaded, remote_failed.
    """

    code = "remote_failed"


class NoTarget(Unavailable):
    """No target of the route may or can answer: open breakers, failures, permissions."""

    code = "no_target"


class StorageError(AgentError):
    """A record could not be made durable, so the decision is refused."""

    code = "storage_error"


class StorageFull(StorageError):
    """The disk is full; nothing was half-written."""

    code = "storage_full"


class LogFrozen(StorageError):
    """The log of this home was shown not to be the one that the witness cosigned, or (where the
    settings ask for it) was not shown to be that yet: nothing is decided."""

    code = "log_frozen"


class StorageForeign(StorageError):
    """The file is not a database of ours, is damaged, or was written by a newer version."""

    code = "storage_foreign"


class ReleaseRefused(AgentError):
    """A release failed verification or activation; the former one stays.

    Codes: unsigned, under_signed, expired, rolled_back, tampered, mismatch (assignment and
    TUF metadata disagree), mix_and_match (files of different publications), root_mismatch (not
    the root that the join token pins), wrong_tenant, assignment_invalid, below_floor,
    fetch_failed, disk_full, policy_invalid, model_load_failed.
    """

    code = "release_refused"


class ModelLoadFailed(ReleaseRefused):
    """The model file did not load, or loading it killed the worker."""

    code = "model_load_failed"


class IdentityError(AgentError):
    """Enrollment or certificate trouble.

    Codes: token_unknown, token_spent, token_expired, token_revoked, token_wrong_agent,
    name_taken, evicted, banned, expired, wrong_tenant, not_enrolled, already_enrolled,
    join_running, ca_mismatch, bad_certificate, bad_answer, key_replaced, recovery_refused,
    renewal_refused, clock_skew, unauthenticated, identity_damaged, identity_exposed,
    identity_sealed.
    """

    code = "identity_error"


class LinkError(AgentError):
    """The coordinator cannot be reached, or its answer breaks the protocol."""

    code = "link_error"


class AuditDiverged(LinkError):
    """The coordinator's view of our log cannot be reconciled with ours.

    Codes: head_ahead (it claims more leaves than we wrote), head_rolled_back (it forgot what
    it cosigned), head_foreign (a checkpoint we did not sign, or that it did not), head_forked
    (another tree under our signature), leaf_conflict, witness_inconsistent,
    cosignature_invalid, fenced (another process holds the log). `evidence` holds what it said, for
    the record; `note` a head that may prove it by our own signature.
    """

    code = "audit_diverged"

    def __init__(self, message: str, *, code: str, evidence: bytes, note: bytes = b"") -> None:
        super().__init__(message, code=code)
        self.evidence = evidence
        self.note = note
