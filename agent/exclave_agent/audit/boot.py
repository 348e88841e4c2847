"""What is recorded before anything else: a log's birth, silence, loose ends, and this start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave_protocol.leaf import decode_leaf
from exclave_protocol.term import TermCertificate

from . import drafts
from .append import Log
from .epoch import FIRST, Epoch

SILENT_BEATS = 2
"""Heartbeats that may be missing before it is called a gap: a restart takes its time."""


@dataclass(frozen=True, slots=True)
class Starting:
    """Who starts."""

    agent: str
    """SPIFFE ID."""
    vkey: str
    """Of the log's key."""
    version: str
    boot_id: str
    runtimes: Sequence[str]
    certificate: TermCertificate
    """Of the term that begins with this start."""
    epoch: Epoch
    heartbeat: float
    """Seconds between signs of life."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What `record_boot` found and wrote."""

    first: bool
    """The log was born just now."""
    closed: tuple[str, ...]
    """Decisions whose INTENT the former process left open: closed as unknown."""
    seq: int
    """Of the BOOT leaf."""


async def record_boot(log: Log, start: Starting, now_ns: int) -> Boot:
    """Open an empty log, say how long it was silent, close dangling INTENTs, then write BOOT.

    All that comes before BOOT, so that a crash in between finds it undone and does it again.
    Raises: StorageFull, StorageError.
    """
    store = log.store
    size = (await store.head()).size
    opening = [drafts.genesis(agent=start.agent, vkey=start.vkey, version=start.version)]
    if start.epoch.number > FIRST:
        before = start.epoch
        opening += [drafts.epoch(before), drafts.lost(before), drafts.recovered(before)]
    for draft in opening[size:]:
        await log.append(draft)
    last = await store.read(lambda reader: reader.leaf(size - 1)) if size else None
    if last is not None:
        since_ns = decode_leaf(last.data).time_ns
        if now_ns - since_ns > SILENT_BEATS * start.heartbeat * 10**9:
            await log.append(drafts.silence(since_ns, now_ns))
    dangling = dict(store.dangling)
    for decision, seq in dangling.items():
        await log.append(drafts.unknown_result(decision, seq))
    appended = await log.append(
        drafts.boot(
            boot_id=start.boot_id,
            version=start.version,
            runtimes=start.runtimes,
            certificate=start.certificate,
        )
    )
    await store.note_quiet()
    return Boot(size == 0, tuple(dangling), appended.seq)
