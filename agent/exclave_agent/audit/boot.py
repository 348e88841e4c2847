"""What is recorded before anything else: the birth of a log, loose ends, and this start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import drafts
from .append import Log


@dataclass(frozen=True, slots=True)
class Boot:
    """What `record_boot` found and wrote."""

    first: bool
    """The log was born just now."""
    closed: tuple[str, ...]
    """Decisions whose INTENT the former process left open: closed as unknown."""
    seq: int
    """Of the BOOT leaf."""


async def record_boot(
    log: Log, *, agent: str, vkey: str, version: str, boot_id: str, runtimes: Sequence[str]
) -> Boot:
    """Write GENESIS into an empty log, close dangling INTENTs, then write BOOT.

    Loose ends come before BOOT, so that a crash in between finds them again.
    Raises: StorageFull, StorageError.
    """
    store = log.store
    first = (await store.head()).size == 0
    if first:
        await log.append(drafts.genesis(agent=agent, vkey=vkey, version=version))
    dangling = dict(store.dangling)
    for decision, seq in dangling.items():
        await log.append(drafts.unknown_result(decision, seq))
    appended = await log.append(drafts.boot(boot_id=boot_id, version=version, runtimes=runtimes))
    await store.note_quiet()
    return Boot(first, tuple(dangling), appended.seq)
