"""One pass over a log in a bundle: hashes into the tree, records against hashes and chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from .archive import Archive
from .errors import EvidenceError, LeafError
from .index import Index
from .layout import SEGMENT_RECORDS, SILENT_BEATS, LogEntry, Manifest
from .leaf import MAX_LEAF, NO_PREV, Leaf, check_follows, decode_leaf, format_time
from .report import Findings, Verdict
from .reviews import MAX_CLAIMS, Reviews
from .tally import Tally
from .tree import HASH_SIZE, Frontier, leaf_hash

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a records file."""

    seq: int
    data: bytes
    file: str


def read_records(archive: Archive, log: LogEntry) -> Iterator[Record]:
    """The log's records by ascending seq. Raises: EvidenceError at the damaged file."""
    prefix = f"{log.place}/records/"
    following = 0
    for first, name in sorted(
        (int(name[len(prefix) : -len(".jsonl")]), name) for name in archive.under(prefix)
    ):
        if first < following:
            raise EvidenceError(f"{name}: its seqs overlap those of the file before it")
        following = first
        for line in archive.lines(name, MAX_LEAF):
            if following == first + SEGMENT_RECORDS:
                raise EvidenceError(f"{name}: more than {SEGMENT_RECORDS} records")
            yield Record(following, line, name)
            following += 1
        if following == first:
            raise EvidenceError(f"{name}: no records, so that its name alone says something")


class Walk:
    """State of the pass; every attribute is to be read after `run`."""

    def __init__(
        self,
        manifest: Manifest,
        log: LogEntry,
        sizes: set[int],
        probes: set[int],
        index: Index,
    ) -> None:
        """`sizes`: where to note the root. `probes`: seqs whose leaf hash to keep. `index` is given
        each record of the range."""
        self.log = log
        self.tree = Findings()
        self.records = Findings()
        self.tally = Tally(log, partial=manifest.partial(log), index=index)
        self.reviews = Reviews()
        self.types: Counter[str] = Counter()
        self.roots: dict[int, bytes] = {}
        self.probed: dict[int, bytes] = {}
        self.size = 0
        """Hashes read."""
        self.tail = 0
        """Records beyond the checkpoint."""
        self.clock_steps: list[int] = []
        """Seqs dated before the record that precedes them."""
        self.strays = 0
        """Records of the range whose own time lies outside it."""
        self.newest_ns = 0
        self.seen: set[int] = set()
        """Which of seq 0 and 1 and the range's neighbours are there."""
        self.second: Leaf | None = None
        """Seq 1, which says what a later epoch continues."""
        self.cut: list[int] = []
        """Neighbours of the range whose time lies in the range."""
        self._archive: Archive
        self._manifest = manifest
        self._sizes = sizes
        self._probes = probes
        self._before: tuple[int, bytes, int] | None = None
        """Seq, hash and time of the last record."""

    def run(self, archive: Archive) -> None:
        """Read the log once, from the first hash to the last record."""
        self._archive = archive
        frontier = Frontier()
        records = self._guard(read_records(archive, self.log), self.records)
        blocks = archive.blocks(f"{self.log.place}/hashes", HASH_SIZE)
        record = next(records, None)
        before = NO_PREV
        self._note_root(frontier)
        for seq, value in enumerate(self._guard(blocks, self.tree)):
            if record is not None and record.seq == seq:
                self._check(record, before, value)
                record = next(records, None)
            if seq in self._probes:
                self.probed[seq] = value
            frontier.append(value)
            before = value
            if seq + 1 in self._sizes:
                self._note_root(frontier)
        self.size = frontier.size
        while record is not None:
            self.tail += 1
            self._check(record, before if record.seq == self.size else self._chained(record), None)
            record = next(records, None)
        self.tally.finish()
        self._hold_claims()

    def _hold_claims(self) -> None:
        """What reviewers' acts name against the hashes: read once more, where there are any."""
        if self.reviews.claims:
            blocks = self._archive.blocks(f"{self.log.place}/hashes", HASH_SIZE)
            self.reviews.hold(self._guard(blocks, self.tree))

    @staticmethod
    def _guard(items: Iterator[_Item], findings: Findings) -> Iterator[_Item]:
        """Damage met while reading ends the reading, not the verification."""
        try:
            yield from items
        except EvidenceError as error:
            findings.add(Verdict.INVALID, str(error))

    def _note_root(self, frontier: Frontier) -> None:
        if frontier.size in self._sizes:
            self.roots[frontier.size] = frontier.root()

    def _chained(self, record: Record) -> bytes | None:
        """The hash that a record beyond the tree must continue, if it is known."""
        if self._before is not None and self._before[0] == record.seq - 1:
            return self._before[1]
        return None

    def _check(self, record: Record, before: bytes | None, expected: bytes | None) -> None:
        """One record against its hash, the format and the chain."""
        place = f"{self.log.origin} seq {record.seq} ({record.file})"
        value = leaf_hash(record.data)
        if expected is not None and value != expected:
            self.records.add(
                Verdict.INVALID, f"{place}: not the record that the tree holds at this seq"
            )
        try:
            leaf = decode_leaf(record.data)
            check_follows(
                leaf,
                log=self.log.origin,
                epoch=self.log.epoch,
                seq=record.seq,
                prev=leaf.prev if before is None else before,
            )
        except LeafError as error:
            self.records.add(Verdict.INVALID, f"{place}: {error}")
            self.tally.add(record.seq, None)
            return
        self.tally.add(record.seq, leaf)
        self.reviews.add(leaf)
        if len(self.reviews.claims) > MAX_CLAIMS:
            self._hold_claims()
        self._note_place(record.seq, leaf)
        self._note_time(record.seq, leaf.time_ns)
        self._before = (record.seq, value, leaf.time_ns)
        if record.seq == 0:
            self._check_genesis(leaf, place)

    def _note_place(self, seq: int, leaf: Leaf) -> None:
        log, inside = self.log, self._manifest.in_range(leaf.time_ns)
        if log.first <= seq < log.end:
            self.types[leaf.type] += 1
            self.strays += not inside
        elif seq in (log.first - 1, log.end) and inside:
            self.cut.append(seq)
        if seq in (0, 1, log.first - 1, log.end):
            self.seen.add(seq)
        if seq == 1:
            self.second = leaf

    def _note_time(self, seq: int, time_ns: int) -> None:
        self.newest_ns = max(self.newest_ns, time_ns)
        if self._before is not None and time_ns < self._before[2] and self._before[0] == seq - 1:
            self.clock_steps.append(seq)

    def _check_genesis(self, leaf: Leaf, place: str) -> None:
        """GENESIS says whose log this is; a bundle that says otherwise was put together."""
        manifest, log = self._manifest, self.log
        spiffe = f"spiffe://{manifest.trust_domain}/tenant/{manifest.tenant}/agent/{log.agent}"
        claims = {"audit_vkey": log.vkey}
        if log.agent:
            claims["agent"] = spiffe
        for name, value in claims.items():
            if leaf.body.get(name, value) != value:
                self.records.add(
                    Verdict.INVALID, f"{place}: GENESIS names another {name} than the manifest"
                )

    def notes(self) -> list[str]:
        """What the records show that is no reason to doubt them."""
        notes = []
        if self.clock_steps:
            notes.append(
                f"the agent's clock went back {len(self.clock_steps)} times, "
                f"first at seq {self.clock_steps[0]}; order is seq, never the clock"
            )
        if self.strays:
            notes.append(f"{self.strays} records of the range are dated outside it (clock steps)")
        if self.tally.dangling:
            first = ", ".join(str(seq) for seq in self.tally.dangling[:5])
            notes.append(
                f"{len(self.tally.dangling)} INTENT without RESULT (crashed, or still running "
                f"when the range ended): seq {first}"
            )
        if self.tally.silences_count:
            seq, seconds = self.tally.silences[0]
            notes.append(
                f"{self.tally.silences_count} times nothing was recorded for longer than "
                f"{SILENT_BEATS} signs of life, first for {seconds} s before seq {seq}"
            )
        for kind in ("GAP", "RECOVERY", "INCIDENT"):
            if self.types[kind]:
                notes.append(f"{self.types[kind]} {kind} records: read them")
        return notes

    def summary(self) -> str:
        """How many records of which types."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.types.items()))
        until = f", the newest dated {format_time(self.newest_ns)}" if self.newest_ns else ""
        return f"{self.tally.records} records of the range{until}" + (f": {kinds}" if kinds else "")
