"""Writes audit bundles: a deterministic zip that an auditor checks offline (docs/audit-format.md).

Everything streams: hashes and records are read once from iterators and never held.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import layout
from .archive import Member
from .byhand import VERIFY_MD
from .canonical import JsonValue
from .checkpoint import Checkpoint
from .chosen import EVERYTHING, Filter
from .dsse import Envelope
from .errors import EvidenceError, LeafError
from .index import Index
from .layout import LogEntry, Manifest
from .leaf import decode_leaf
from .listings import listings
from .note import split_note
from .page import render
from .tally import Tally, completeness
from .tree import HASH_SIZE

_SPOOLED = 8 << 20
"""Bytes of index.csv that are held before they go to a file."""
_CHUNK = 1 << 16
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state: equal input, equal bytes


@dataclass(frozen=True, slots=True)
class LogSpec:
    """One log as it goes into a bundle. Iterables are read once, `hashes` before `records`."""

    agent: str
    """Empty for the operators' log."""
    epoch: int
    origin: str
    vkey: str
    """The key that signs the log's checkpoints; its name is `origin`."""
    checkpoint: bytes
    """Newest checkpoint as a signed note with the witness's line; empty: none yet."""
    hashes: Iterable[bytes]
    """Leaf hashes of seq 0 up to the checkpoint's size, in order."""
    first: int
    end: int
    """Seqs [first, end) lie in the time range: from the smallest to the largest seq whose time
    does. None does: both are the number of leaves before the range. Ends at the checkpoint's
    size unless leaves beyond it are to be shown too (the bundle is INCOMPLETE then)."""
    uploaded: int
    """Leaves stored, witnessed or not."""
    records: Iterable[tuple[int, bytes]]
    """(seq, exact leaf bytes) of `layout.wanted(first, end, size, epoch)`, ascending."""
    recorded: bytes = b""
    """C2SP tlog-proof of the checkpoint's cosignature in the witness's log; empty: none."""
    seen: Iterable[bytes] = ()
    """Other checkpoints signed by this log's key, above all those that contradicted what
    was stored: evidence of a fork. At most 9,999."""
    registration: Mapping[str, JsonValue] = field(default_factory=dict)
    """What the coordinator has on file of the agent; equal in all its epochs."""

    @property
    def size(self) -> int:
        """Leaves under the checkpoint. Raises: NoteError when it does not parse."""
        if not self.checkpoint:
            return 0
        return Checkpoint.parse(split_note(self.checkpoint)[0]).size


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """One bundle: a tenant's logs and the operators' log."""

    tenant: str
    trust_domain: str
    created_ns: int
    time_from: int
    time_to: int
    """Seconds since the Unix epoch, from inclusive, to exclusive; 0: open."""
    witness_vkey: str
    agents: Mapping[str, int]
    """Every agent of the tenant that is on file, and when it was last seen: seconds since the
    Unix epoch, 0 for never."""
    logs: Iterable[LogSpec]
    filter: Filter = EVERYTHING
    """Which decisions it is about; `logs` bring no others."""
    verifier: bytes = b""
    """See `standalone.verifier`; empty: it is not in the bundle."""
    page: bool = False
    """Whether the bundle has what is made of its records: the page for people `report.html`,
    `index.csv` and `listings.json`."""
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    """The key of the operators' log, which signs the bundle; a bundle with that log needs it."""
    spool: Path | None = None
    """Where what cannot be held is kept meanwhile; None: the system's folder for such."""


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a bundle."""

    logs: int
    records: int
    missing: int


class _Writer:
    """A zip whose bytes depend on the content alone, with the digests of what it holds."""

    def __init__(self, out: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(out, "w", allowZip64=True)
        self._sums: dict[str, str] = {}

    def stream(self, name: str, chunks: Iterable[bytes], *, packed: bool = True) -> None:
        """Add one file. Raises: EvidenceError when the name is not of the layout, or taken."""
        if layout.KNOWN_FILE.fullmatch(name) is None or name in self._sums:
            raise EvidenceError(f"bundle: {name} is not a file of the layout, or stands twice")
        info = Member(name, _EPOCH)
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        info.create_system = 3  # Unix, wherever this runs
        info.external_attr = 0o100644 << 16
        digest = sha256()
        with self._zip.open(info, "w", force_zip64=True) as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        self._sums[name] = digest.hexdigest()

    def add(self, name: str, data: bytes) -> None:
        """Add one small file."""
        self.stream(name, [data])

    def close(self, signer: Ed25519PrivateKey | None) -> None:
        """Write SHA256SUMS, the signature and the directory. Only now is the zip complete."""
        lines = (f"{digest}  {name}\n" for name, digest in sorted(self._sums.items()))
        self.add(layout.SUMS, "".join(lines).encode())
        if signer is not None:
            stated = layout.statement(self._sums[layout.MANIFEST], self._sums[layout.SUMS])
            envelope = Envelope.signed(layout.STATEMENT_TYPE, stated, [signer])
            self.add(layout.SIGNED, envelope.encode())
        self._zip.close()

    def abandon(self) -> None:
        """Let go of a zip that will never be complete: collected, it would complete itself."""
        self._zip.fp = None


def _hashes(log: LogSpec, size: int) -> Iterable[bytes]:
    """The hashes file in pieces. Raises: EvidenceError unless there are exactly `size`."""
    buffer = bytearray()
    count = 0
    for value in log.hashes:
        if len(value) != HASH_SIZE:
            raise EvidenceError(f"hashes of {log.origin}: {len(value)} bytes at seq {count}")
        buffer += value
        count += 1
        if len(buffer) >= 65_536:
            yield bytes(buffer)
            buffer.clear()
    if count != size:
        raise EvidenceError(f"hashes of {log.origin}: {count} where the checkpoint has {size}")
    yield bytes(buffer)


def _add_records(writer: _Writer, log: LogSpec, tally: Tally) -> None:
    """The records in files of consecutive seqs, one exact leaf a line."""
    segment: list[bytes] = []
    start, following = 0, 0

    def flush() -> None:
        if segment:
            name = f"{tally.log.place}/records/{start:012d}.jsonl"
            writer.stream(name, (leaf + b"\n" for leaf in segment))
            segment.clear()

    for seq, data in log.records:
        if seq < following:
            raise EvidenceError(f"records of {log.origin}: seq {seq} is not in ascending order")
        if seq != following or len(segment) == layout.SEGMENT_RECORDS:
            flush()
        if not segment:
            start = seq
        segment.append(data)
        following = seq + 1
        try:
            tally.add(seq, decode_leaf(data))
        except LeafError:
            # Damaged in the store: shown as it is, so that the auditor sees where.
            tally.add(seq, None)
    flush()
    tally.finish()


def _add_log(writer: _Writer, log: LogSpec, index: Index, *, partial: bool) -> Tally:
    size = log.size
    entry = LogEntry(
        log.agent, log.epoch, log.origin, log.vkey, size, log.uploaded, log.first, log.end
    )
    tally = Tally(entry, partial=partial and bool(log.agent), index=index)
    writer.add(entry.key_file, f"{log.vkey}\n".encode())
    writer.add(f"{entry.place}/checkpoint", log.checkpoint)
    if log.recorded:
        writer.add(entry.proof_file, log.recorded)
    writer.stream(f"{entry.place}/hashes", _hashes(log, size), packed=False)
    _add_records(writer, log, tally)
    for number, checkpoint in enumerate(log.seen, 1):
        writer.add(f"{entry.place}/seen/{number:04d}.checkpoint", checkpoint)
    return tally


def write_bundle(out: BinaryIO, spec: BundleSpec) -> Written:
    """Write the bundle to `out`, which need not be seekable.

    The same spec gives the same bytes. What the store holds goes in as it is, right or
    wrong: to judge is the verifier's part.
    Raises: EvidenceError when the spec does not fit the layout (names, order, counts), NoteError
    when a checkpoint does not parse; `out` then holds an incomplete zip.
    """
    writer, place = _Writer(out), None if spec.spool is None else str(spec.spool)
    try:
        with tempfile.SpooledTemporaryFile(_SPOOLED, dir=place) as rows:
            return _write(writer, spec, rows)
    except BaseException:
        writer.abandon()
        raise


def _write(writer: _Writer, spec: BundleSpec, rows: IO[bytes]) -> Written:
    """`rows` takes index.csv, which grows while the records go by."""
    writer.add(layout.BY_HAND, VERIFY_MD.encode())
    if spec.verifier:
        writer.add(layout.VERIFIER, spec.verifier)
    writer.add(layout.WITNESS_KEY, f"{spec.witness_vkey}\n".encode())
    tallies: list[Tally] = []
    index = Index(rows.write)
    registered: set[str] = set()
    for log in spec.logs:
        tallies.append(_add_log(writer, log, index, partial=bool(spec.filter)))
        if log.agent and log.agent not in registered:
            registered.add(log.agent)
            writer.add(f"logs/{log.agent}/registration.json", layout.registration(log.registration))
    manifest = Manifest(
        spec.tenant,
        spec.trust_domain,
        spec.created_ns,
        spec.time_from,
        spec.time_to,
        spec.witness_vkey,
        tuple(layout.AgentEntry(name, seen) for name, seen in sorted(spec.agents.items())),
        tuple(tally.log for tally in tallies),
        spec.filter,
    )
    writer.add(layout.COMPLETENESS, completeness(tallies))
    if spec.page:
        writer.add(layout.PAGE, render(manifest, tallies))
        writer.add(layout.LISTINGS, listings(tallies))
        rows.seek(0)
        writer.stream(layout.INDEX, iter(lambda: rows.read(_CHUNK), b""))
    writer.add(layout.MANIFEST, manifest.to_bytes())
    writer.close(spec.signer)
    return Written(
        len(tallies),
        sum(tally.records for tally in tallies),
        sum(tally.missing_count for tally in tallies),
    )
