"""Retention: destroys the values of records whose time is over, class by class.

The leaves stay, and verify; an ERASURE leaf says of which ones the values are gone, and it is
written in the transaction that destroys them. MUST: nothing is destroyed before its days are over
on the trusted clock, nor before its decision has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from exclave_agent.ports import Clock
from exclave_policy.kinds.retention import Retention, RetentionClass
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf

from . import drafts
from .append import Log
from .store import LogReader, StoredLeaf

log = logging.getLogger(__name__)

MAX_LEAVES: Final = 256
"""Leaves whose values one transaction destroys."""
MAX_SCANNED: Final = 4096
"""Leaves that one step looks at."""
MAX_STEPS: Final = 64
"""Steps of each class in one run; the next run goes on where it stopped."""
_DAY_NS: Final = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Found:
    """What one step has to do."""

    seqs: tuple[int, ...]
    next: int
    """The first leaf that was not looked at."""
    over: bool
    """Whether what comes after is not due, or not there."""


class Retainer:
    """Run `run` as a chore."""

    def __init__(
        self,
        record: Log,
        clock: Clock,
        retention: Callable[[], Retention | None],
        truncate: Callable[[], Awaitable[bool]],
    ) -> None:
        """`clock`: the trusted time. `retention`: of the release that answers now. `truncate`:
        takes what was destroyed out of the files' write-ahead log too; whether it could."""
        self._record = record
        self._clock = clock
        self._retention = retention
        self._truncate = truncate
        self._left_behind = False

    async def run(self) -> None:
        """Destroy what is due now. Raises: StorageError; what was done by then stays done."""
        retention = self._retention()
        if retention is not None:
            for each in retention.classes:
                for _ in range(MAX_STEPS):
                    if not await self._step(retention, each):
                        break
        if self._left_behind:
            self._left_behind = not await self._truncate()

    async def _step(self, retention: Retention, kind: RetentionClass) -> bool:
        """Whether there may be more to do."""
        cutoff = self._clock.now_ns() - kind.days * _DAY_NS
        store = self._record.store
        found = await store.read(lambda reader: _due(reader, retention, kind, cutoff))
        if found.seqs:
            await self._record.forget(
                drafts.retained(kind.name, kind.days, found.seqs), found.seqs, kind.name, found.next
            )
            self._left_behind = True
            log.info("values of %d records of class %s destroyed", len(found.seqs), kind.name)
        elif found.next:
            await store.note_forgotten(kind.name, found.next)
        return not found.over


def _due(reader: LogReader, retention: Retention, kind: RetentionClass, cutoff: int) -> _Found:
    """The next leaves of a class whose time is over."""
    first = reader.forgotten(kind.name)
    seqs: list[int] = []
    place = first
    for stored in reader.scan(first):
        if place - first >= MAX_SCANNED or len(seqs) >= MAX_LEAVES:
            return _Found(tuple(seqs), place, over=False)
        leaf = decode_leaf(stored.data)
        if leaf.time_ns > cutoff or _open(reader, leaf):
            return _Found(tuple(seqs), place if place > first else 0, over=True)
        if leaf.sd and _class_of(reader, leaf, retention) == kind.name:
            seqs.append(stored.seq)
        place = stored.seq + 1
    return _Found(tuple(seqs), place if place > first else 0, over=True)


def _open(reader: LogReader, leaf: Leaf) -> bool:
    """Whether its decision has not ended: what is asked is not destroyed while it is answered."""
    decision = leaf.body.get("decision")
    if leaf.type is not LeafType.INTENT or not isinstance(decision, str):
        return False
    return len(reader.by_decision(decision)) < 2


def _class_of(reader: LogReader, leaf: Leaf, retention: Retention) -> str:
    """The class that its decision was given; of records from before there were classes, that of
    the label of the data."""
    named = leaf.body.get("retention")
    if isinstance(named, str):
        return named
    label = leaf.body.get("data_class")
    if not isinstance(label, str):
        label = _label_of(reader, leaf)
    found = None if label is None else retention.of(label)
    return "" if found is None else found.name


def _label_of(reader: LogReader, leaf: Leaf) -> str | None:
    """A RESULT's label stands in its INTENT."""
    decision = leaf.body.get("decision")
    if leaf.type is not LeafType.RESULT or not isinstance(decision, str):
        return None
    for seq in reader.by_decision(decision):
        stored: StoredLeaf | None = reader.leaf(seq)
        label = None if stored is None else _body(stored).get("data_class")
        if isinstance(label, str):
            return label
    return None


def _body(stored: StoredLeaf) -> Mapping[str, JsonValue]:
    return decode_leaf(stored.data).body
