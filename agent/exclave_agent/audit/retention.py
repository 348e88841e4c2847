"""Retention: destroys the values of records whose time is over, class by class.

The leaves stay, and verify; an ERASURE leaf says of which ones the values are gone, and it is
written in the transaction that destroys them. MUST: nothing is destroyed before its days are over
on the trusted clock, nor while its decision is being answered or waits for people.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from exclave_agent.ports import Clock
from exclave_policy.kinds.approvals import Approval
from exclave_policy.kinds.retention import Retention, RetentionClass
from exclave_policy.model import ANY
from exclave_protocol.chosen import DECISIONS
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf

from . import drafts
from .append import Log
from .epoch import former_origin
from .store import LogReader

log = logging.getLogger(__name__)

MAX_LEAVES: Final = 256
"""Leaves whose values one transaction destroys."""
MAX_SCANNED: Final = 4096
"""Leaves that one step looks at."""
MAX_STEPS: Final = 64
"""Steps of each class in one run; the next run goes on where it stopped."""
MAX_LEFT: Final = 4096
"""Leaves of a class that are passed by for now; with more, its walk waits for some of them."""
_DAY_NS: Final = 86_400 * 1_000_000_000
_SECOND_NS: Final = 1_000_000_000


class Governing(Protocol):
    """What a policy says of how long values are kept."""

    @property
    def retention(self) -> Retention | None:
        """None: nothing ends."""
        ...

    @property
    def approvals(self) -> Mapping[str, Approval]:
        """By name: what decisions wait for, and how long."""
        ...


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a class has come in the log."""

    next: int = 0
    """The first leaf that was not looked at."""
    left: tuple[int, ...] = ()
    """Leaves before it that are of the class, and could not be destroyed yet."""
    basis: str = ""
    """What the class went by when it began to walk: a digest."""

    @classmethod
    def of(cls, data: bytes | None, basis: str) -> Walk:
        """Go on, or begin anew where that has changed: what was passed by may be due now."""
        try:
            kept = None if data is None else msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError:
            kept = None  # nothing is destroyed twice, and nothing is passed by
        return cls(basis=basis) if kept is None or kept.basis != basis else kept

    def encode(self) -> bytes:
        """As `of` reads it."""
        return msgspec.json.encode(self)


class Retainer:
    """Run `run` as a chore."""

    def __init__(
        self,
        record: Log,
        clock: Clock,
        policy: Callable[[], Governing | None],
        truncate: Callable[[], Awaitable[bool]],
        live: Callable[[str], bool],
    ) -> None:
        """`clock`: the trusted time. `policy`: of the release that answers now. `truncate`: takes
        what was destroyed out of the files' write-ahead log too; whether it could. `live`: whether
        a decision is still being answered; asked from another thread."""
        self._record = record
        self._clock = clock
        self._policy = policy
        self._truncate = truncate
        self._live = live
        self._left_behind = False

    async def run(self) -> None:
        """Destroy what is due now. Raises: StorageError; what was done by then stays done."""
        policy = self._policy()
        retention = None if policy is None else policy.retention
        if policy is not None and retention is not None:
            # Former epochs' values are kept as long as this one's.
            for epoch in range(self._record.store.epoch, 0, -1):
                for each in retention.classes:
                    for _ in range(MAX_STEPS):
                        if not await self._step(policy, retention, each, epoch):
                            break
        if self._left_behind:
            self._left_behind = not await self._truncate()

    async def _step(
        self, policy: Governing, retention: Retention, kind: RetentionClass, epoch: int
    ) -> bool:
        """Whether there may be more to do."""
        now_ns = self._clock.now_ns()
        store = self._record.store

        def search(reader: LogReader) -> _Found:
            return _Search(reader, retention, policy.approvals, kind, now_ns, self._live).found()

        found = await store.read(search, epoch=epoch)
        walk = None if found.walk is None else found.walk.encode()
        if found.seqs:
            assert walk is not None, "what was found was walked to"
            log_of = former_origin(store.origin, store.epoch, epoch)
            erasure = drafts.retained(kind.name, kind.days, found.seqs, log=log_of)
            gone = await self._record.forget(erasure, found.seqs, kind.name, walk, epoch=epoch)
            if gone is None:
                return False  # a legal hold was set just now: the next run sees it
            self._left_behind = True
            log.info("values of %d records of class %s destroyed", len(found.seqs), kind.name)
        elif walk is not None:
            await store.note_walk(kind.name, walk, epoch=epoch)
        return not found.over


@dataclass(frozen=True, slots=True)
class _Found:
    """What one step has to do."""

    seqs: tuple[int, ...]
    """In order: whose values end."""
    walk: Walk | None
    """How far it came; None: no farther."""
    over: bool
    """Whether what comes after is not due, or not there."""


class _Search:
    """The next leaves of a class whose time is over. Blocking, for a reader's thread."""

    def __init__(
        self,
        reader: LogReader,
        retention: Retention,
        approvals: Mapping[str, Approval],
        kind: RetentionClass,
        now_ns: int,
        live: Callable[[str], bool],
    ) -> None:
        self._reader = reader
        self._retention = retention
        self._approvals = approvals
        self._kind = kind
        self._now_ns = now_ns
        self._cutoff = now_ns - kind.days * _DAY_NS
        self._live = live
        longest = max((each.expires_seconds for each in approvals.values()), default=0)
        self._outlasts = longest * _SECOND_NS > kind.days * _DAY_NS
        """Whether something may wait for people beyond the days of the class."""

    def found(self) -> _Found:
        """One step."""
        basis = _basis(self._reader.holds(), self._retention, self._kind)
        before = Walk.of(self._reader.walk(self._kind.name), basis)
        due: list[int] = []
        left: list[int] = []
        for seq in before.left:
            self._sort(seq, self._leaf(seq), due, left)
        place, over = before.next, True
        for stored in self._reader.scan(before.next):
            if place - before.next >= MAX_SCANNED or len(due) >= MAX_LEAVES:
                over = False
                break
            leaf = decode_leaf(stored.data)
            if leaf.time_ns > self._cutoff or len(left) >= MAX_LEFT:
                break
            if leaf.sd and self._mine(leaf) and self._ends(stored.seq):
                self._sort(stored.seq, leaf, due, left)
            place = stored.seq + 1
        due, rest = due[:MAX_LEAVES], due[MAX_LEAVES:]
        walk = replace(before, next=place, left=tuple(sorted((*left, *rest))))
        return _Found(
            tuple(sorted(due)), None if walk == before and not due else walk, over and not rest
        )

    def _sort(self, seq: int, leaf: Leaf, due: list[int], left: list[int]) -> None:
        """Into those whose values end, or those that are looked at again."""
        stays = leaf.time_ns > self._cutoff or self._open(leaf) or self._waits(leaf)
        (left if stays else due).append(seq)

    def _ends(self, seq: int) -> bool:
        """Whether it has values that may end. Those on hold are not waited for: when that changes,
        the walk begins anew."""
        return self._reader.keeps(seq) and not self._reader.held(seq)

    def _leaf(self, seq: int) -> Leaf:
        stored = self._reader.leaf(seq)
        assert stored is not None, "leaves stay"
        return decode_leaf(stored.data)

    def _open(self, leaf: Leaf) -> bool:
        """Whether its decision has not ended: what is asked is not destroyed while it is answered.
        One whose RESULT could not be written has ended too."""
        decision = leaf.body.get("decision")
        return isinstance(decision, str) and self._live(decision)

    def _waits(self, leaf: Leaf) -> bool:
        """Whether its decision's answer may wait for people yet, who must see what it is."""
        if not self._outlasts:
            return False
        for each in (leaf, *self._kin(leaf)):
            names = each.body.get("approvals")
            if each.type is LeafType.RESULT and isinstance(names, list):
                known = (self._approvals.get(str(name)) for name in names)
                seconds = max((one.expires_seconds for one in known if one is not None), default=0)
                return each.time_ns + seconds * _SECOND_NS > self._now_ns
        return False

    def _mine(self, leaf: Leaf) -> bool:
        """Whether it is of the class that its decision was given; of records that were given none,
        whether the label of the data is of the class."""
        named = leaf.body.get("retention")
        if isinstance(named, str):
            return named == self._kind.name
        for each in (leaf, *self._kin(leaf)):  # a RESULT's label stands in its INTENT
            label = each.body.get("data_class")
            if isinstance(label, str):
                found = self._retention.of(label)
                return found is not None and found.name == self._kind.name
        return False

    def _kin(self, leaf: Leaf) -> list[Leaf]:
        """All leaves of its decision, of those that have one."""
        decision = leaf.body.get("decision")
        if leaf.type not in DECISIONS or not isinstance(decision, str):
            return []
        return [self._leaf(seq) for seq in self._reader.by_decision(decision)]


def _basis(holds: str, retention: Retention, kind: RetentionClass) -> str:
    """Of all that decides whether a leaf that was passed by is passed by for good: legal holds,
    and what is of the class by its label. "All others" is something else with each other."""
    others = [each.data_classes for each in retention.classes] if ANY in kind.data_classes else []
    labels = [sorted(each) for each in (kind.data_classes, *others)]
    return hashlib.sha256(json.dumps([holds, labels]).encode()).hexdigest()[:16]
