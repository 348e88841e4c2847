"""Judges the reviewers' acts of one log while its records go by (docs/audit-format.md section 9).

Holds the reviewers' keys and the decisions that wait, never records. What an act rests on may lie
outside of a bundle's range: then only its leaf hash is held against the tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from . import layout
from .approval import (
    Act,
    Place,
    Requirement,
    Review,
    Stands,
    Statement,
    is_review,
    open_statement,
    read_requires,
    reviewer_key,
    satisfied,
)
from .canonical import JsonValue
from .errors import EvidenceError
from .leaf import Leaf, LeafType
from .report import Findings, Verdict

MAX_CLAIMS: Final = 50_000
"""Leaf hashes that are remembered until they are held against the tree."""


Counts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Reviewer:
    """Whom an OVERRIDE made a reviewer."""

    vkey: str
    key: str
    """Id of the API key that the reviewer uses."""
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Vote:
    """Who stands for an answer."""

    name: str
    public: bytes
    key: str | None
    """Id of the API key; None: the registration is not here."""
    answer: str | None
    counts: Counts
    corrects: bool

    def same(self, other: _Vote) -> bool:
        """Whether both are one person, as far as the record can tell."""
        keys = self.key is not None and self.key == other.key
        return keys or self.name == other.name or self.public == other.public


@dataclass(slots=True)
class _Case:
    """A decision that waits; of one whose RESULT is not here, what its acts tell."""

    here: bool
    """Whether its RESULT is."""
    result: int
    intent: int | None = None
    asker: str | None = None
    sd: frozenset[str] = frozenset()
    requires: tuple[Requirement, ...] | None = None
    over: bool = False
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
        self._removed: dict[str, int] = {}
        """Vkey -> seq of the record that ended it last."""
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
        try:
            if is_review(leaf.type, body):
                self.acts += 1
                self._judge(leaf)
            elif leaf.type is LeafType.OVERRIDE and body.get("what") == "reviewer":
                self._register(leaf)
            elif leaf.type is LeafType.INTENT and isinstance(decision, str):
                self._askers[decision] = (leaf.seq, _asker(body.get("actor")))
            elif leaf.type is LeafType.RESULT and isinstance(decision, str):
                self._wait(leaf, decision)
        except EvidenceError as error:
            self.found.add(Verdict.INVALID, f"{leaf.log} seq {leaf.seq}: {error}")

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
            self._removed[vkey] = leaf.seq
            return
        named = frozenset(map(str, roles)) if isinstance(roles, list) else frozenset()
        self._reviewers[leaf.seq] = _Reviewer(vkey, str(body.get("key")), named)

    def _wait(self, leaf: Leaf, decision: str) -> None:
        """Raises: EvidenceError (it waits, and does not say properly for what)."""
        seq, asker = self._askers.pop(decision, (None, None))
        names = leaf.body.get("approvals") or []
        if not names and leaf.body.get("degraded") != "person":
            return
        intent = layout.integer(leaf.body.get("intent"), "intent")
        if intent >= self._since and seq != intent:
            raise EvidenceError("its INTENT is not that of the decision")
        stated = leaf.body.get("requires", [])
        requires = read_requires(stated)
        if [each.approval for each in requires] != names:
            raise EvidenceError("approvals and requires do not go together")
        found = asker if seq == intent else None
        self._cases[decision] = _Case(True, leaf.seq, intent, found, frozenset(leaf.sd), requires)

    # --- one act ---------------------------------------------------------------------------------

    def _judge(self, leaf: Leaf) -> None:
        """Raises: EvidenceError."""
        review = Review.of(leaf.body)
        if leaf.type is LeafType.APPROVAL and "what" in leaf.body:
            raise EvidenceError("an APPROVAL that says what an OVERRIDE does")
        if review.envelope is None:
            self._expire(leaf, review)
            return
        statement = open_statement(review.envelope)
        self._agree(leaf, review, statement)
        assert review.registered is not None, "checked"
        for place in (statement.intent, statement.result, review.registered, *review.beside):
            self._claim(place, leaf.seq)
        reviewer = self._reviewers.get(review.registered.seq)
        known = self._known(review.registered, reviewer is not None, "no reviewer is registered")
        self._may(review, statement, reviewer)
        case = self._case(review, statement)
        known &= case.here
        _fits(review, statement, reviewer, case)
        key = reviewer_key(statement.reviewer)
        vote = _Vote(
            key.name,
            key.public,
            None if reviewer is None else reviewer.key,
            review.answer,
            review.counts,
            review.act is Act.CORRECT,
        )
        known &= self._stands(review, vote, case)
        self.beyond += not known
        case.votes[leaf.seq] = vote
        self._settle(review, case)

    def _expire(self, leaf: Leaf, review: Review) -> None:
        """Raises: EvidenceError."""
        if review.stands is not Stands.REFUSED or leaf.type is not LeafType.APPROVAL:
            raise EvidenceError("what nobody acted on in time is refused")
        case = self._cases.get(review.decision)
        if case is None:
            if not self._since:
                raise EvidenceError("the decision does not wait")
            case = self._cases[review.decision] = _Case(False, -1)
            self.beyond += 1
        _agrees(review, case)
        self._settle(review, case)

    def _settle(self, review: Review, case: _Case) -> None:
        if review.stands is Stands.WAITING:
            return
        if case.here:
            del self._cases[review.decision]
        else:  # where nothing else tells that it is over
            case.over, case.votes = True, {}

    def _case(self, review: Review, statement: Statement) -> _Case:
        """The decision; one whose RESULT is not here becomes known by its first act."""
        case = self._cases.get(review.decision)
        if case is None:
            self._known(statement.result, False, "the decision does not wait")
            case = _Case(False, statement.result.seq, statement.intent.seq)
            self._cases[review.decision] = case
        return case

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

    def _may(self, review: Review, statement: Statement, reviewer: _Reviewer | None) -> None:
        """Whether the key was a reviewer's then, and has the roles. Raises: EvidenceError."""
        assert review.registered is not None, "checked"
        if review.registered.seq < self._removed.get(statement.reviewer, -1):
            raise EvidenceError("signed by a key that is not a registered reviewer's any more")
        if reviewer is None:
            return
        if reviewer.vkey != statement.reviewer:
            raise EvidenceError("signed by a key that is not a registered reviewer's")
        if any(role not in reviewer.roles for _, role in review.counts):
            raise EvidenceError("the reviewer has no such role")

    def _stands(self, review: Review, own: _Vote, case: _Case) -> bool:
        """How the decision stands by it; whether all that counts for that is here."""
        votes, good, known = [own], set(case.sd), case.here
        for place in review.beside:
            vote = case.votes.get(place.seq)
            known &= self._known(place, vote is not None, "no act stands for that answer")
            if vote is None:
                continue
            if vote.answer != review.answer or any(map(vote.same, votes)):
                raise EvidenceError(f"record {place.seq} counts for another answer, or twice")
            votes.append(vote)
            good |= {vote.answer} if vote.corrects and vote.answer else set()
        if known and review.act is Act.APPROVE and review.answer not in good:
            raise EvidenceError("the answer is not that of the decision, nor a corrected one")
        self._weigh(review, {each.name: each.counts for each in votes}, known=known)
        return known

    @staticmethod
    def _weigh(review: Review, votes: dict[str, Counts], *, known: bool) -> None:
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


def _agrees(review: Review, case: _Case) -> None:
    """That it is not over, and waits for what its RESULT says; where that is not here, for what its
    first act said. Raises: EvidenceError."""
    if case.over:
        raise EvidenceError("the decision does not wait any more")
    if case.requires is None:
        case.requires = review.requires
    elif review.requires != case.requires:
        raise EvidenceError("it requires something else than the decision waits for")


def _fits(review: Review, statement: Statement, reviewer: _Reviewer | None, case: _Case) -> None:
    """The act against the decision that waits. Raises: EvidenceError."""
    _agrees(review, case)
    if (statement.result.seq, statement.intent.seq) != (case.result, case.intent):
        raise EvidenceError("it is about other records than those of the decision")
    asked = {each.approval for each in review.requires} or {""}
    if any(name not in asked for name, _ in review.counts):
        raise EvidenceError("it counts for an approval that nobody asked for")
    if reviewer is None or reviewer.key != case.asker or review.act is Act.REFUSE:
        return
    counted = {name for name, _ in review.counts}
    if any(each.separate and each.approval in counted for each in review.requires):
        raise EvidenceError("whoever asked may not approve")
