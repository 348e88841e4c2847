"""Search: finds records by what stands in them, and by their values for those who may read them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exclave_agent.errors import BadRequest
from exclave_protocol.disclosure import parse
from exclave_protocol.leaf import Leaf, decode_leaf

from .disclose import Shown, find, show
from .store import LogReader

FOREVER_NS = 2**63 - 1
STEP = 4096
"""Leaves looked at at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; what is empty asks for nothing."""

    types: frozenset[str] = frozenset()
    outcome: str = ""
    model: str = ""
    rule: str = ""
    """The policy's, that decided."""
    since_ns: int = 0
    until_ns: int = FOREVER_NS
    """By the records' own times: from inclusive, to exclusive."""
    text: str = ""
    """Stands in one of the values, in whatever case."""

    def fits(self, leaf: Leaf) -> bool:
        """Whether what is public of a record is as asked for."""
        return (
            (not self.types or str(leaf.type) in self.types)
            and self.since_ns <= leaf.time_ns < self.until_ns
            and (not self.outcome or leaf.body.get("outcome") == self.outcome)
            and (not self.model or _inner(leaf, "model", "name") == self.model)
            and (not self.rule or _inner(leaf, "policy", "rule") == self.rule)
        )

    def said(self, shown: Shown) -> bool:
        """Whether its values are."""
        if not self.text:
            return True
        needle = self.text.casefold()
        values = (json.dumps(each, ensure_ascii=False) for each in shown.fields.values())
        return any(needle in value.casefold() for value in values)


def _inner(leaf: Leaf, name: str, field: str) -> object:
    value = leaf.body.get(name)
    return value.get(field) if isinstance(value, dict) else None


def search(reader: LogReader, wanted: Wanted, limit: int, *, first: int = 0) -> list[Shown]:
    """The newest records that fit, at most `limit`, oldest first; of those from `first` on.

    Raises: StorageError.
    """
    found: deque[Shown] = deque(maxlen=limit)
    for stored in reader.scan(first):
        if wanted.fits(decode_leaf(stored.data)):
            shown = show(reader, stored.seq)
            if wanted.said(shown):
                found.append(shown)
    return list(found)


def commitments_of(reader: LogReader, subject: str) -> list[str]:
    """The digests of all private fields that are kept of a subject: a bundle can be asked for by
    them, and nobody who has them learns whose they are.

    Raises: BadRequest (nothing is kept of it), StorageError.
    """
    number = reader.number_of(subject)
    if number is None:
        raise BadRequest("nothing is kept of a subject of that name", param="subject")
    size, found = reader.size(), list[str]()
    for first in range(0, size, STEP):
        for seq in reader.of_subject(number, first, STEP):
            found += [parse(text).digest for text in reader.private(seq)]
    return found


def with_field(field: str, reference: str) -> Callable[[LogReader], int]:
    """The record that a person means (see `disclose.find`), of a decision's the first that has
    such a private field. Raises: BadRequest, StorageError."""

    def look(reader: LogReader) -> int:
        seqs = find(reader, reference)
        for seq in seqs:
            if field in show(reader, seq).disclosures:
                return seq
        if len(seqs) == 1:
            return seqs[0]  # whose refusal names the fields that it has
        known = sorted({name for seq in seqs for name in show(reader, seq).disclosures})
        raise BadRequest(
            f"no record of this decision has a private field of that name; they have: "
            f"{', '.join(known) or 'none'}",
            param="field",
        )

    return look
