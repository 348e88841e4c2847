"""Judges the reviewers' acts of one log while its records go by (docs/audit-format.md section 9).

Holds the reviewers' keys and the decisions that wait, never records. What an act rests on may lie
outside of a bundle's range: then only its leaf hash is held against the tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .approval import (
    Act,
    Place,
    Review,
    Stands,
    Statement,
    is_review,
    open_statement,
    reviewer_key,
    satisfied,
)
from .canonical import JsonValue
from .errors import EvidenceError
from .leaf import Leaf, LeafType
from .report import Findings, Verdict

MAX_CLAIMS: Final = 50_000
"""Leaf hashes that are remembered until they are held against the tree."""


@dataclass(frozen=True, slots=True)
class _Reviewer:
    """Whom an OVERRIDE made a reviewer."""

    vkey: str
    key: str
    """Id of the API key that the reviewer uses."""
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Vote:
    reviewer: str
    answer: str
    counts: tuple[tuple[str, str], ...]
    corrects: bool


@dataclass(slots=True)
class _Case:
    """A decision that waits."""

    intent: int | None
    result: int
    asker: str | None
    sd: frozenset[str]
    names: frozenset[str]
    votes: dict[int, _Vote] = field(default_factory=dict)


class Reviews:
    """Feed every record by ascending seq, then `hold` the tree's hashes."""

    def __init__(self) -> None:
        self.found = Findings()
        self.acts = 0
        self.beyond = 0
        """Acts that rest on records which are not here."""
        self.claims: dict[int, bytes] = {}
        """Seq -> leaf hash that an act names."""
        self._reviewers: dict[int, _Reviewer] = {}
        self._removed: set[str] = set()
        self._askers: dict[str, tuple[int, str | None]] = {}
        self._cases: dict[str, _Case] = {}
        self._since = 0
        """From here on every record was seen."""
        self._next = 0

    def add(self, leaf: Leaf) -> None:
        """The next record."""
        if leaf.seq != self._next:
            self._since = leaf.seq
        self._next = leaf.seq + 1
        body = leaf.body
        decision = body.get("decision")
        if is_review(leaf.type, body):
            self.acts += 1
            try:
                self._judge(leaf)
            except EvidenceError as error:
                self.found.add(Verdict.INVALID, f"{leaf.log} seq {leaf.seq}: {error}")
        elif leaf.type is LeafType.OVERRIDE and body.get("what") == "reviewer":
            self._register(leaf)
        elif leaf.type is LeafType.INTENT and isinstance(decision, str):
            self._askers[decision] = (leaf.seq, _asker(body.get("actor")))
        elif leaf.type is LeafType.RESULT and isinstance(decision, str):
            self._wait(leaf, decision)

    def hold(self, hashes: Iterable[bytes]) -> None:
        """Hold what acts name against the tree, and forget it."""
        left = dict(self.claims)
        for seq, value in enumerate(hashes):
            if left.pop(seq, value) != value:
                self.found.add(Verdict.INVALID, f"an act names another record than that of {seq}")
            if not left:
                break
        # What is left lies beyond the tree, with the acts that name it: nothing vouches for either.
        self.claims.clear()

    def _register(self, leaf: Leaf) -> None:
        body, roles = leaf.body, leaf.body.get("roles")
        vkey = str(body.get("vkey"))
        if body.get("stands") is not True:
            self._removed.add(vkey)
            return
        self._removed.discard(vkey)
        named = frozenset(map(str, roles)) if isinstance(roles, list) else frozenset()
        self._reviewers[leaf.seq] = _Reviewer(vkey, str(body.get("key")), named)

    def _wait(self, leaf: Leaf, decision: str) -> None:
        intent, asker = self._askers.pop(decision, (None, None))
        names = leaf.body.get("approvals")
        if not names and leaf.body.get("degraded") != "person":
            return
        held = frozenset(map(str, names)) if isinstance(names, list) else frozenset()
        self._cases[decision] = _Case(intent, leaf.seq, asker, frozenset(leaf.sd), held)

    # --- one act ---------------------------------------------------------------------------------

    def _judge(self, leaf: Leaf) -> None:
        """Raises: EvidenceError."""
        review = Review.of(leaf.body)
        if review.envelope is None:
            if review.stands is not Stands.REFUSED or leaf.type is not LeafType.APPROVAL:
                raise EvidenceError("what nobody acted on in time is refused")
            self._cases.pop(review.decision, None)
            return
        statement = open_statement(review.envelope)
        self._agree(leaf, review, statement)
        assert review.registered is not None, "checked"
        for place in (statement.intent, statement.result, review.registered, *review.beside):
            self._claim(place, leaf.seq)
        reviewer = self._reviewers.get(review.registered.seq)
        known = self._known(review.registered, reviewer is not None, "no reviewer is registered")
        case = self._cases.get(review.decision)
        known &= self._known(statement.result, case is not None, "the decision does not wait")
        if reviewer is not None:
            _may(review, statement, reviewer, self._removed)
        if case is not None:
            _fits(review, statement, reviewer, case)
        known &= self._stands(leaf, review, statement, case)
        self.beyond += not known
        if review.stands is not Stands.WAITING:
            self._cases.pop(review.decision, None)

    def _agree(self, leaf: Leaf, review: Review, statement: Statement) -> None:
        """What was signed against what the leaf says."""
        signed = (statement.log, statement.decision, statement.act, statement.answer)
        if signed != (leaf.log, review.decision, review.act, review.answer):
            raise EvidenceError("the reviewer signed something else than the record says")
        if (review.act is Act.CORRECT) is not (leaf.type is LeafType.OVERRIDE):
            raise EvidenceError("an answer is corrected by an OVERRIDE, and by nothing else")
        if not statement.intent.seq < statement.result.seq < leaf.seq:
            raise EvidenceError("the reviewer signed before there was something to sign")
        if statement.shown not in leaf.sd:
            raise EvidenceError("what was shown is not committed to")
        if review.act is Act.CORRECT and review.answer not in leaf.sd:
            raise EvidenceError("the corrected answer is not committed to")
        if review.registered is None or not review.counts:
            raise EvidenceError("it does not say as whom the reviewer acts")
        if reviewer_key(statement.reviewer).name != review.reviewer:
            raise EvidenceError("the record names another reviewer than the key does")

    def _claim(self, place: Place, before: int) -> None:
        if place.seq >= before:
            raise EvidenceError("it rests on what comes after it")
        if self.claims.setdefault(place.seq, place.hash) != place.hash:
            raise EvidenceError(f"it names another record than that of seq {place.seq}")

    def _known(self, place: Place, here: bool, otherwise: str) -> bool:
        """Whether what it rests on is here. Raises: EvidenceError (it should be, and is not)."""
        if not here and place.seq >= self._since:
            raise EvidenceError(f"{otherwise} by record {place.seq}")
        return here

    def _stands(self, leaf: Leaf, review: Review, statement: Statement, case: _Case | None) -> bool:
        """How the decision stands by it; whether all that counts for that is here."""
        votes = {statement.reviewer: review.counts}
        good, known = set() if case is None else set(case.sd), case is not None
        for place in review.beside:
            vote = None if case is None else case.votes.get(place.seq)
            known &= self._known(place, vote is not None, "no act stands for that answer")
            if vote is None:
                continue
            if vote.answer != review.answer or vote.reviewer in votes:
                raise EvidenceError(f"record {place.seq} counts for another answer, or twice")
            votes[vote.reviewer] = vote.counts
            good |= {vote.answer} if vote.corrects else set()
        if known and review.act is Act.APPROVE and review.answer not in good:
            raise EvidenceError("the answer is not that of the decision, nor a corrected one")
        self._weigh(review, votes, known=known)
        if case is not None and review.answer is not None:
            case.votes[leaf.seq] = _Vote(
                statement.reviewer, review.answer, review.counts, review.act is Act.CORRECT
            )
        return known

    @staticmethod
    def _weigh(
        review: Review, votes: dict[str, tuple[tuple[str, str], ...]], *, known: bool
    ) -> None:
        if review.act is Act.REFUSE:
            if review.stands is not Stands.REFUSED:
                raise EvidenceError("a refusal refuses")
        elif review.stands is Stands.REFUSED or (
            known and satisfied(review.requires, votes) is not (review.stands is Stands.RELEASED)
        ):
            raise EvidenceError("how the decision stands is not what the acts add up to")


def _asker(actor: JsonValue) -> str | None:
    key = actor.get("key") if isinstance(actor, dict) else None
    return key if isinstance(key, str) else None


def _may(review: Review, statement: Statement, reviewer: _Reviewer, removed: set[str]) -> None:
    """Whether the reviewer's key is one, and has the roles. Raises: EvidenceError."""
    if reviewer.vkey != statement.reviewer or reviewer.vkey in removed:
        raise EvidenceError("signed by a key that is not a registered reviewer's")
    if any(role not in reviewer.roles for _, role in review.counts):
        raise EvidenceError("the reviewer has no such role")


def _fits(review: Review, statement: Statement, reviewer: _Reviewer | None, case: _Case) -> None:
    """The act against the decision that waits. Raises: EvidenceError."""
    if statement.result.seq != case.result or case.intent not in (None, statement.intent.seq):
        raise EvidenceError("it is about other records than those of the decision")
    asked = {each.approval for each in review.requires}
    if asked != case.names:
        raise EvidenceError("it requires other approvals than the decision waits for")
    if any(name not in (asked or {""}) for name, _ in review.counts):
        raise EvidenceError("it counts for an approval that nobody asked for")
    if reviewer is None or reviewer.key != case.asker or review.act is Act.REFUSE:
        return
    counted = {name for name, _ in review.counts}
    if any(each.separate and each.approval in counted for each in review.requires):
        raise EvidenceError("whoever asked may not approve")
