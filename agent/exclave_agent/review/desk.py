"""Desk: shows reviewers what waits, takes what they signed, and gives out what they released.

MUST: an act is on record before anybody is told of it, and an answer is given only on a record
that says `released`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from exclave_agent.audit import drafts
from exclave_agent.audit.append import Log
from exclave_agent.errors import (
    AnswerGone,
    AnswerRefused,
    BadRequest,
    NoSuchReview,
    ReviewClosed,
    ReviewDenied,
)
from exclave_agent.ports import Caller, Clock, Referral, Referrals, Rng
from exclave_protocol.approval import (
    ANSWER,
    SHOWN,
    Act,
    Requirement,
    Review,
    Stands,
    Statement,
    envelope_of,
    open_statement,
    satisfied,
)
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import SALT_SIZE, Disclosure, make, parse
from exclave_protocol.dsse import Envelope
from exclave_protocol.errors import DisclosureError, EvidenceError

from .case import Case, Counts, case_of, requirements
from .registry import Registry, Reviewer

log = logging.getLogger(__name__)

MAX_LISTED: Final = 1000
EXPIRED_AT_ONCE: Final = 100
PERSON: Final = "reviewer"
"""The role that may act where no Approval document says who may."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything a reviewer's program needs to check and to show a decision."""

    referral: Referral
    case: Case
    requires: tuple[Requirement, ...]
    shown: Disclosure
    """The text, under a salt of its own."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An act that is on record."""

    stands: Stands
    seq: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the asker is told."""

    stands: Stands
    told: str = ""
    """While it waits."""
    answer: JsonValue = None
    corrected: bool = False


class Desk:
    """One for an agent."""

    def __init__(
        self, record: Log, referrals: Referrals, registry: Registry, clock: Clock, rng: Rng
    ) -> None:
        self._record = record
        self._referrals = referrals
        self._registry = registry
        self._clock = clock
        self._rng = rng
        self._turn = asyncio.Lock()

    async def waiting(self, caller: Caller) -> Sequence[Referral]:
        """What the caller may act on, oldest first. Raises: StorageError."""
        found = await self._referrals.waiting(MAX_LISTED)
        return [each for each in found if _roles(each, caller.roles)]

    async def view(self, caller: Caller, decision: str) -> View:
        """One decision, with its values. Raises: ReviewDenied, NoSuchReview, StorageError."""
        referral = await self._referral(caller, decision)
        case = await self._case(referral)
        requires = requirements(referral.terms)
        text = case.text(requires)
        return View(referral, case, requires, make(SHOWN, text, self._rng.token(SALT_SIZE)))

    async def take(
        self, caller: Caller, decision: str, envelope: bytes, shown: str, answer: str | None
    ) -> Taken:
        """Put a reviewer's act on record. `shown`: the encoded disclosure of the text; `answer`:
        that of a corrected answer.

        Raises: ReviewDenied, NoSuchReview, ReviewClosed, BadRequest, StorageFull, StorageError.
        """
        async with self._turn:
            referral = await self._referral(caller, decision)
            reviewer = self._registry.of_key(caller.key_id)
            if reviewer is None:
                raise ReviewDenied(
                    "no reviewer's key is registered for this API key: `exclave-agent reviewer "
                    "add` on the agent's machine does that",
                    code="reviewer_unregistered",
                )
            case = await self._case(referral)
            statement, sealed = _opened(envelope)
            opened = _disclosed(statement, shown, answer)
            if reviewer.vkey != statement.reviewer:
                raise ReviewDenied(
                    "signed with another key than the one that is registered for this API key",
                    code="reviewer_unregistered",
                )
            self._agree(statement, case, decision, opened[0], requirements(referral.terms))
            review = self._review(referral, case, statement, sealed, reviewer)
            return await self._append(case, review, opened)

    async def answer(self, caller: Caller, decision: str) -> Outcome:
        """For whoever asked. Raises: NoSuchReview, AnswerRefused, AnswerGone, StorageError."""
        case = await self._read(decision)
        if case is None or case.asker != caller.key_id or not _was_held(case):
            raise NoSuchReview("no decision of yours of that id waits, or waited, for people")
        if case.stands is Stands.WAITING:
            referral = await self._referrals.of(decision)
            told = referral.terms[0].told if referral is not None and referral.terms else ""
            return Outcome(case.stands, told)
        if case.stands is Stands.REFUSED:
            if case.expired:
                raise AnswerRefused("nobody approved it in time", code="approval_expired")
            raise AnswerRefused("a reviewer refused it")
        found = case.answer
        if found is None:
            raise AnswerGone("the answer was released; its value was erased, or is over")
        return Outcome(case.stands, answer=found.value, corrected=found.name == ANSWER)

    async def expire(self) -> None:
        """Refuse what nobody acted on in time; a chore. Raises: StorageFull, StorageError."""
        async with self._turn:
            now = self._clock.now_ns()
            for referral in await self._referrals.overdue(now, EXPIRED_AT_ONCE):
                case = await self._read(referral.decision)
                # Without one it is of a former epoch, whose records nothing is added to.
                if case is not None and case.stands is Stands.WAITING:
                    requires = requirements(referral.terms)
                    review = Review(
                        referral.decision, Act.EXPIRE, None, Stands.REFUSED, requires, None
                    )
                    await self._record.append(drafts.reviewed(review))
                await self._referrals.remove(referral.decision)
                log.info("decision %s: nobody acted in time", referral.decision)

    # --- one act ---------------------------------------------------------------------------------

    async def _referral(self, caller: Caller, decision: str) -> Referral:
        found = await self._referrals.of(decision)
        if found is None:
            raise NoSuchReview("no decision of that id waits for people")
        if not _roles(found, caller.roles):
            raise ReviewDenied("none of your roles may act on that decision")
        if found.expires_ns and found.expires_ns <= self._clock.now_ns():
            raise ReviewClosed("the time in which that decision could be approved is over")
        return found

    async def _read(self, decision: str) -> Case | None:
        return await self._record.store.read(lambda reader: case_of(reader, decision))

    async def _case(self, referral: Referral) -> Case:
        case = await self._read(referral.decision)
        if case is None:
            raise ReviewClosed(
                "the decision's record is not complete yet, or is in a former epoch of the log, "
                "where nothing can be added"
            )
        if case.stands is not Stands.WAITING:
            await self._referrals.remove(referral.decision)  # cut off before it was
            raise ReviewClosed("the decision waits no more")
        return case

    def _agree(
        self,
        statement: Statement,
        case: Case,
        decision: str,
        shown: Disclosure,
        requires: tuple[Requirement, ...],
    ) -> None:
        """What was signed is about this decision as it stands now, and was seen in full."""
        intent, result = case.intent, case.result
        if (
            statement.log != intent.leaf.log
            or statement.decision != decision
            or (statement.intent.seq, statement.intent.hash) != (intent.leaf.seq, intent.hash)
            or (statement.result.seq, statement.result.hash) != (result.leaf.seq, result.hash)
        ):
            raise BadRequest("envelope: the statement is about other records", param="envelope")
        if shown.value != case.text(requires):
            raise ReviewClosed(
                "the decision is not what you were shown any more: look at it again",
                code="review_changed",
            )
        held = case.answer
        if statement.act is Act.APPROVE and (held is None or held.digest != statement.answer):
            raise BadRequest(
                "envelope: approves another answer than the one that waits", param="envelope"
            )

    def _review(
        self,
        referral: Referral,
        case: Case,
        statement: Statement,
        sealed: Envelope,
        reviewer: Reviewer,
    ) -> Review:
        counts = _counts(referral, case, statement, reviewer)
        requires = requirements(referral.terms)
        votes = [] if statement.answer is None else case.votes(statement.answer)
        if any(each.same(reviewer.name, reviewer.vkey, reviewer.key) for each in votes):
            raise ReviewClosed("you stand for that answer already", code="already_reviewed")
        stands = Stands.REFUSED
        if statement.act is not Act.REFUSE:
            weighed = {each.review.reviewer: each.review.counts for each in votes}
            enough = satisfied(requires, weighed | {reviewer.name: counts})
            stands = Stands.RELEASED if enough else Stands.WAITING
        return Review(
            referral.decision,
            statement.act,
            statement.answer,
            stands,
            requires,
            reviewer.place,
            counts,
            tuple(each.place for each in votes),
            sealed,
            reviewer.name,
        )

    async def _append(self, case: Case, review: Review, opened: Sequence[Disclosure]) -> Taken:
        seq = case.intent.leaf.seq
        subject = await self._record.store.read(lambda reader: reader.subject_of(seq))
        if "prompt" not in case.values and review.act is not Act.REFUSE:
            raise ReviewClosed(
                "what was asked is not kept any more: refuse it", code="review_changed"
            )
        appended = await self._record.append(drafts.reviewed(review, opened, subject))
        if review.stands is not Stands.WAITING:
            await self._referrals.remove(review.decision)
        return Taken(review.stands, appended.seq)


def _was_held(case: Case) -> bool:
    body = case.result.leaf.body
    return bool(body.get("approvals")) or body.get("degraded") == "person"


def _roles(referral: Referral, roles: Sequence[str]) -> Counts:
    """What somebody of these roles counts for."""
    if not referral.terms:
        return (("", PERSON),) if PERSON in roles and not referral.approvals else ()
    found = []
    for each in referral.terms:
        role = next((role for role in sorted(roles) if role in each.roles), None)
        if role is not None:
            found.append((each.approval, role))
    return tuple(found)


def _counts(referral: Referral, case: Case, statement: Statement, reviewer: Reviewer) -> Counts:
    """What the act counts for. Raises: ReviewDenied."""
    counts = _roles(referral, reviewer.roles)
    if case.asker == reviewer.key and statement.act is not Act.REFUSE:
        apart = {each.approval for each in referral.terms if each.separate}
        counts = tuple(each for each in counts if each[0] not in apart)
        if not counts:
            raise ReviewDenied("whoever asked may not approve", code="asker_may_not_approve")
    if not counts:
        raise ReviewDenied("none of the reviewer's roles may act on that decision")
    return counts


def _opened(data: bytes) -> tuple[Statement, Envelope]:
    try:
        envelope = envelope_of(data)
        return open_statement(envelope), envelope
    except EvidenceError as error:
        raise BadRequest(f"envelope: {error.message}", param="envelope") from None


def _disclosed(statement: Statement, shown: str, answer: str | None) -> list[Disclosure]:
    """What the statement commits to, opened: the text that was shown, a corrected answer.

    Raises: BadRequest.
    """
    if (answer is None) is (statement.act is Act.CORRECT):
        raise BadRequest("answer: goes with a correction, and only with that", param="answer")
    wanted: list[tuple[str, str, str | None]] = [(SHOWN, shown, statement.shown)]
    if answer is not None:
        wanted.append((ANSWER, answer, statement.answer))
    found = []
    for name, encoded, digest in wanted:
        try:
            item = parse(encoded)
        except DisclosureError as error:
            raise BadRequest(f"{name}: {error.message}", param=name) from None
        if item.name != name or item.digest != digest:
            raise BadRequest(f"{name}: not what the statement was signed over", param=name)
        found.append(item)
    if answer is not None and found[1].value in (None, ""):
        raise BadRequest("answer: empty", param=ANSWER)
    return found
