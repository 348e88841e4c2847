"""Case: how a decision that waits stands, as its own records tell; there is no other truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from exclave_agent.audit.disclose import Shown, show
from exclave_agent.audit.store import LogReader
from exclave_agent.errors import StorageError
from exclave_agent.ports import Terms
from exclave_protocol import shown
from exclave_protocol.approval import (
    ANSWER,
    HELD,
    Act,
    Place,
    Requirement,
    Review,
    Stands,
    Statement,
    is_review,
    open_statement,
    reviewer_key,
)
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import Disclosure
from exclave_protocol.errors import EvidenceError
from exclave_protocol.leaf import LeafType

Counts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """One act on record."""

    record: Shown
    review: Review
    statement: Statement | None
    """None: nobody acted in time."""
    key: str
    """Id of the API key that its reviewer used."""

    def same(self, name: str, vkey: str, key: str) -> bool:
        """Whether somebody of that name and those keys is who acted here."""
        if self.statement is None:
            return False
        public = reviewer_key(self.statement.reviewer).public
        return (
            self.review.reviewer == name or self.key == key or public == reviewer_key(vkey).public
        )

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.record.leaf.seq, self.record.hash)


@dataclass(slots=True)
class Case:
    """A decision that was handed over, and all that was done about it since."""

    intent: Shown
    result: Shown
    done: list[Done] = field(default_factory=list)

    @property
    def stands(self) -> Stands:
        """Now."""
        return self.done[-1].review.stands if self.done else Stands.WAITING

    @property
    def expired(self) -> bool:
        """Whether it is refused because nobody acted in time."""
        return bool(self.done) and self.done[-1].review.act is Act.EXPIRE

    @property
    def answer(self) -> Disclosure | None:
        """What may be given: the newest correction, else what was made. None: there is none, or
        its value is not kept any more."""
        for each in reversed(self.done):
            if each.review.act is Act.CORRECT:
                return each.record.disclosures.get(ANSWER)
        return self.result.disclosures.get(HELD)

    @property
    def asker(self) -> str:
        """Id of the API key that asked."""
        actor = self.intent.leaf.body.get("actor")
        return str(actor.get("key")) if isinstance(actor, dict) else ""

    def votes(self, answer: str) -> list[Done]:
        """The acts that stand for an answer, each of somebody else."""
        return [each for each in self.done if each.statement and each.review.answer == answer]

    def text(self, requires: Sequence[Requirement]) -> str:
        """What a reviewer is shown."""
        answer = self.answer
        return shown.render(
            self.intent.leaf,
            self.result.leaf,
            self.values,
            None if answer is None else answer.value,
            requires,
            [each.record.leaf for each in self.done],
        )

    @property
    def values(self) -> dict[str, JsonValue]:
        """Of the INTENT, what is shown."""
        return {n: v for n, v in self.intent.fields.items() if n in shown.FIELDS}


def case_of(reader: LogReader, decision: str) -> Case | None:
    """That of a decision in the present epoch; None: it has no INTENT and RESULT there.

    Raises: StorageError ("log_altered", "vault_damaged").
    """
    intent = result = None
    done: list[Done] = []
    for seq in reader.by_decision(decision):
        record = show(reader, seq)
        if record.leaf.type is LeafType.INTENT:
            intent = record
        elif record.leaf.type is LeafType.RESULT:
            result = record
        elif is_review(record.leaf.type, record.leaf.body):
            done.append(_read(reader, record))
    return None if intent is None or result is None else Case(intent, result, done)


def _read(reader: LogReader, record: Shown) -> Done:
    try:
        review = Review.of(record.leaf.body)
        if review.envelope is None or review.registered is None:
            return Done(record, review, None, "")
        registered = show(reader, review.registered.seq).leaf.body
        return Done(record, review, open_statement(review.envelope), str(registered.get("key")))
    except EvidenceError as error:
        raise StorageError(
            f"record {record.leaf.seq} cannot be read: {error.message}", code="log_altered"
        ) from error


def requirements(terms: Sequence[Terms]) -> tuple[Requirement, ...]:
    """As statements and leaves have them."""
    return tuple(Requirement(e.approval, e.version, e.count, e.separate) for e in terms)
