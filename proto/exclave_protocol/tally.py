"""What one log's records show: the writer of a bundle states it, a verifier counts it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .canonical import JsonValue, encode
from .index import Index
from .layout import COMPLETENESS_SCHEMA, INTEGER, MAX_LISTED, SILENT_BEATS, LogEntry
from .leaf import Leaf, LeafType
from .summary import Summary


@dataclass(slots=True)
class Tally:
    """What one log's records show; the writer states it, the verifier counts again.

    Feed records by ascending seq. Holds open intents only, never records.
    """

    log: LogEntry
    records: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
    """Absent seqs of the range, as (first, last), at most `MAX_LISTED`."""
    missing_count: int = 0
    summary: Summary = field(default_factory=Summary)
    partial: bool = False
    """Records of the range were left out because they were not asked for: they are counted, and
    not listed."""
    index: Index | None = None
    """Is given each record of the range, if there is one."""
    heartbeats: int = 0
    every: int = 0
    """Seconds between signs of life, as the newest HEARTBEAT says; 0: it says nothing."""
    silences: list[tuple[int, int]] = field(default_factory=list)
    """(seq, seconds) of records that came later than `SILENT_BEATS` signs of life after the one
    before, at most `MAX_LISTED`."""
    silences_count: int = 0
    _before: tuple[int, int] | None = None
    """Seq and time of the last record."""
    _intents: dict[int, None] = field(default_factory=dict)
    _next: int = -1

    def __post_init__(self) -> None:
        self._next = self.log.first

    def add(self, seq: int, leaf: Leaf | None) -> None:
        """Count one record; None: a record that does not decode."""
        if self.log.first <= seq < self.log.end:
            self._skip(seq)
            self.records += 1
            self._next = seq + 1
            if leaf is not None:
                self.summary.add(leaf)
                self._beat(leaf)
                if self.index is not None:
                    self.index.add(leaf)
            if leaf is not None and leaf.type is LeafType.INTENT:
                self._intents[seq] = None
        if leaf is not None and leaf.type is LeafType.RESULT:
            intent = leaf.body.get("intent")
            if type(intent) is str and INTEGER.fullmatch(intent):
                self._intents.pop(int(intent), None)

    def _beat(self, leaf: Leaf) -> None:
        """Silence between two records that follow each other, against the pace that was said."""
        if self._before is not None and self._before[0] == leaf.seq - 1 and self.every:
            seconds = (leaf.time_ns - self._before[1]) // 10**9
            if seconds > SILENT_BEATS * self.every:
                self.silences_count += 1
                if len(self.silences) < MAX_LISTED:
                    self.silences.append((leaf.seq, seconds))
        self._before = (leaf.seq, leaf.time_ns)
        if leaf.type is LeafType.HEARTBEAT:
            self.heartbeats += 1
            every = leaf.body.get("every")
            known = isinstance(every, str) and INTEGER.fullmatch(every)
            self.every = int(str(every)) if known else 0

    def _skip(self, seq: int) -> None:
        if seq > self._next:
            self.missing_count += seq - self._next
            if len(self.missing) < MAX_LISTED and not self.partial:
                self.missing.append((self._next, seq - 1))
            self._next = seq

    def finish(self) -> None:
        """Count what is absent at the end of the range."""
        self._skip(self.log.end)

    @property
    def dangling(self) -> list[int]:
        """INTENT records of the range without a RESULT in the bundle."""
        return list(self._intents)

    def to_json(self) -> dict[str, JsonValue]:
        """The log's entry of completeness.json; call `finish` first."""
        return {
            "origin": self.log.origin,
            "first": str(self.log.first),
            "end": str(self.log.end),
            "witnessed": str(self.log.size),
            "uploaded": str(self.log.uploaded),
            "records": str(self.records),
            "missing": [[str(first), str(last)] for first, last in self.missing],
            "missing_count": str(self.missing_count),
            "dangling_intents": [str(seq) for seq in self.dangling[:MAX_LISTED]],
            "dangling_count": str(len(self._intents)),
            "heartbeats": str(self.heartbeats),
            "every": str(self.every),
            "silences": [[str(seq), str(seconds)] for seq, seconds in self.silences],
            "silences_count": str(self.silences_count),
        }


def completeness(tallies: Iterable[Tally]) -> bytes:
    """completeness.json."""
    return encode({"schema": COMPLETENESS_SCHEMA, "logs": [tally.to_json() for tally in tallies]})
