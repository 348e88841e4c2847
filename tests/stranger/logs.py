"""Section 5 of the page, step 6: one log of a bundle."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stranger.acts import faults
from stranger.leaves import Leaf, parse_leaf
from stranger.manifest import RECORDS, SEEN, LogEntry, Manifest
from stranger.notes import LOG, Checkpoint, Vkey, cosigned, parse_checkpoint, signed
from stranger.proofs import parse_proof
from stranger.tree import hash_list, leaf_hash, root
from stranger.wire import Refused

SECOND = 10**9
Findings = list[tuple[str, str]]


@dataclass
class LogRead:
    """A log as it was found."""

    entry: LogEntry
    checkpoint: Checkpoint | None = None
    hashes: list[bytes] = field(default_factory=list)
    records: dict[int, Leaf] = field(default_factory=dict)
    vouched: int | None = None

    @property
    def in_range(self) -> list[Leaf]:
        """The records of the range, by seq."""
        seqs = [seq for seq in sorted(self.records) if self.entry.first <= seq < self.entry.end]
        return [self.records[seq] for seq in seqs]


def _head(log: LogRead, files: dict[str, bytes], witness: Vkey, found: Findings) -> None:
    """(1) to (3): signed, cosigned, and the root of the hashes."""
    entry = log.entry
    note = files[f"{entry.path}/checkpoint"]
    log.hashes = hash_list(files[f"{entry.path}/hashes"])
    if len(log.hashes) != entry.size:
        raise Refused("more or fewer hashes than the checkpoint's size")
    if not note:
        if entry.size:
            raise Refused("a size without a checkpoint")
        found.append(("UNANCHORED", f"{entry.origin}: no checkpoint"))
        return
    log.checkpoint = point = parse_checkpoint(note)
    signed(point, entry.vkey)
    if point.size != entry.size or root(log.hashes) != point.root:
        raise Refused("a checkpoint of another size or root")
    log.vouched = cosigned(point, witness)
    if log.vouched is None and not entry.operators:
        found.append(("UNANCHORED", f"{entry.origin}: no cosignature"))


def _raw_records(entry: LogEntry, files: dict[str, bytes]) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    prefix = f"{entry.path}/"
    for name in sorted(files):
        match = RECORDS.fullmatch(name.removeprefix(prefix))
        if not name.startswith(prefix) or match is None:
            continue
        lines = files[name].split(b"\n")
        if lines.pop() != b"" or not 1 <= len(lines) <= 1_024:
            raise Refused(f"{name}: not lines, or too many")
        for seq, line in enumerate(lines, int(match[1])):
            if seq in out:
                raise Refused(f"{name}: seq {seq} again")
            out[seq] = line
    return out


def _genesis(leaf: Leaf, entry: LogEntry, manifest: Manifest) -> None:
    agent = f"spiffe://{manifest.trust_domain}/tenant/{manifest.tenant}/agent/{entry.agent}"
    if leaf.body.get("audit_vkey") != entry.vkey.line:
        raise Refused("a GENESIS with another key")
    if not entry.operators and leaf.body.get("agent") != agent:
        raise Refused("a GENESIS of another agent")


def _records(log: LogRead, files: dict[str, bytes], manifest: Manifest) -> None:
    """(4): every record under its hash, at its place, after the one before."""
    entry = log.entry
    raw = _raw_records(entry, files)
    known = dict(enumerate(log.hashes))
    for seq in sorted(raw):
        value = leaf_hash(raw[seq])
        if known.setdefault(seq, value) != value:
            raise Refused(f"{entry.origin}: seq {seq} is not under its hash")
        leaf = parse_leaf(raw[seq])
        if (leaf.log, leaf.epoch, leaf.seq) != (entry.origin, entry.epoch, seq):
            raise Refused(f"{entry.origin}: seq {seq} is of another place")
        if seq and known.get(seq - 1, leaf.prev) != leaf.prev:
            raise Refused(f"{entry.origin}: seq {seq} does not continue the one before")
        log.records[seq] = leaf
    if 0 in log.records:
        _genesis(log.records[0], entry, manifest)


def _bounds(entry: LogEntry) -> set[int]:
    """What is there besides the range."""
    out = {0} if entry.uploaded else set()
    out |= {1} if entry.epoch > 1 and entry.uploaded > 1 else set()
    out |= {entry.first - 1} if entry.first else set()
    out |= {entry.end} if entry.end < entry.size else set()
    return out


def agree(points: Sequence[Checkpoint], log: LogRead, found: Findings) -> None:
    """(5): other checkpoints by the log's key, held against the tree and each other."""
    roots = {log.checkpoint.size: log.checkpoint.root} if log.checkpoint else {}
    for point in points:
        signed(point, log.entry.vkey)
        if point.size <= len(log.hashes):
            roots.setdefault(point.size, root(log.hashes[: point.size]))
        if roots.setdefault(point.size, point.root) != point.root:
            found.append(("DIVERGED", f"{log.entry.origin}: two trees of size {point.size}"))


def _missing(log: LogRead, manifest: Manifest, found: Findings) -> None:
    """(6): the range, and what bounds it."""
    entry = log.entry
    wanted = _bounds(entry)
    if entry.operators or not manifest.filtered:
        wanted |= set(range(entry.first, entry.end))
    if wanted - log.records.keys():
        found.append(("INCOMPLETE", f"{entry.origin}: records are missing"))
    if entry.end > entry.size:
        found.append(("INCOMPLETE", f"{entry.origin}: leaves beyond the checkpoint"))
    _cut(log, manifest, found)


def _cut(log: LogRead, manifest: Manifest, found: Findings) -> None:
    """The records before and behind the range are dated outside of it."""
    for seq in (log.entry.first - 1, log.entry.end):
        leaf = log.records.get(seq)
        if leaf is None or leaf.time < manifest.start * SECOND:
            continue
        if not manifest.stop or leaf.time < manifest.stop * SECOND:
            found.append(("INCOMPLETE", f"{log.entry.origin}: the range was cut short"))


def _on_record(log: LogRead, files: dict[str, bytes], manifest: Manifest, found: Findings) -> None:
    """(7): the cosignature has its leaf in the witness's log."""
    entry = log.entry
    if entry.operators or manifest.operators is None or not log.checkpoint or not log.vouched:
        return
    data = files.get(f"{entry.path}/cosigned.proof")
    try:
        if data is None:
            raise Refused("no cosigned.proof")
        proof = parse_proof(data)
        origin = f"{manifest.trust_domain}/_witness/coordinator/e1"
        signed(proof.checkpoint, Vkey(origin, LOG, manifest.operators.vkey.public))
        wanted = {
            "cosigned_at": str(log.vouched),
            "origin": entry.origin,
            "root": log.checkpoint.root.hex(),
            "size": str(log.checkpoint.size),
        }
        if proof.leaf.kind != "COSIGNED" or proof.leaf.body != wanted:
            raise Refused("the proof of another leaf")
    except Refused as error:
        found.append(("UNANCHORED", f"{entry.origin}: given in secret: {error}"))


def read_log(
    entry: LogEntry,
    files: dict[str, bytes],
    manifest: Manifest,
    brought: Sequence[Checkpoint],
    found: Findings,
) -> LogRead:
    """All of step 6 for one log."""
    log = LogRead(entry)
    _head(log, files, manifest.witness, found)
    _records(log, files, manifest)
    prefix = f"{entry.path}/"
    seen = [
        parse_checkpoint(files[name])
        for name in sorted(files)
        if name.startswith(prefix) and SEEN.fullmatch(name.removeprefix(prefix))
    ]
    agree([*seen, *(point for point in brought if point.origin == entry.origin)], log, found)
    _missing(log, manifest, found)
    _on_record(log, files, manifest, found)
    hashes, records = log.hashes, [log.records[seq] for seq in sorted(log.records)]
    for fault in faults(records, lambda seq: hashes[seq] if seq < len(hashes) else None):
        found.append(("INVALID", f"{entry.origin}: {fault}"))
    return log
