"""Erase: destroys everything that is kept of a subject, and records it; legal holds stop that.

The order is what makes it safe to be cut off anywhere: the key first, so that no value opens any
more; then the leaf that says so; then what is left of the sealed values. An erasure that was cut
off is finished by `resume`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import Clock, Ids

from . import drafts
from .append import Log
from .epoch import former_origin
from .retention import MAX_LEAVES, MAX_SCANNED
from .store import Erasing, Hold, LogReader, Subjects

log = logging.getLogger(__name__)

MAX_HOLDS: Final = 256
MAX_SUBJECT: Final = 4096
"""Characters of a subject's name."""
TRIES: Final = 5
"""How often the write-ahead logs are tried to be emptied while somebody reads; each try waits for
readers by itself."""
TRY_SECONDS: Final = 0.2
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


@dataclass(frozen=True, slots=True)
class Erased:
    """What was destroyed."""

    leaves: int
    """Records whose values are gone."""
    answers: int
    """Kept answers that are gone."""
    seq: int | None
    """Of the ERASURE; None: it was on record already."""


class Eraser:
    """One for a home."""

    def __init__(
        self,
        record: Log,
        subjects: Subjects,
        truncate: Callable[[], Awaitable[bool]],
        clock: Clock,
        ids: Ids,
    ) -> None:
        """`truncate`: takes what was destroyed out of the files' write-ahead logs too; whether it
        could."""
        self._record = record
        self._subjects = subjects
        self._truncate = truncate
        self._clock = clock
        self._ids = ids
        self._turn = asyncio.Lock()

    async def erase(self, subject: str) -> Erased:
        """Destroy what is kept of a subject.

        MUST: when this returns, none of it opens, and no file of the home holds its key.

        Raises: BadRequest (nothing is kept of it, "on_hold"), StorageFull, StorageError; once the
        key is gone `resume` does the rest.
        """
        _check_subject(subject)
        async with self._turn:
            erasing = await self._subjects.destroy_key(subject)
            if erasing is None:
                raise BadRequest("nothing is kept of a subject of that name", param="subject")
            return await self._finish(erasing)

    async def resume(self) -> None:
        """Finish what was cut off; a chore. Raises: StorageFull, StorageError."""
        async with self._turn:
            for erasing in await self._subjects.erasing():
                done = await self._finish(erasing)
                log.info("an erasure was finished: values of %d records", done.leaves)

    async def _finish(self, erasing: Erasing) -> Erased:
        await self._empty()
        store = self._record.store
        found = {epoch: await self._seqs(erasing, epoch) for epoch in range(1, store.epoch + 1)}
        seqs = found[store.epoch]
        former = {
            former_origin(store.origin, store.epoch, epoch): len(of)
            for epoch, of in found.items()
            if of and epoch != store.epoch
        }
        answers = await self._subjects.drop_answers(erasing)
        span = (seqs[0], seqs[-1]) if seqs else None
        appended = await self._record.append_once(
            b"erasure\n" + erasing.name, drafts.erased(len(seqs), span, answers, former)
        )
        for epoch, of in found.items():
            for start in range(0, len(of), MAX_LEAVES):
                await store.wipe(erasing, of[start : start + MAX_LEAVES], epoch=epoch)
        await self._empty()
        await self._subjects.bury(erasing)
        leaves = len(seqs) + sum(former.values())
        return Erased(leaves, answers, None if appended is None else appended.seq)

    async def _seqs(self, erasing: Erasing, epoch: int) -> Sequence[int]:
        """The leaves that were the subject's. None comes after: its key is gone."""
        found = array("Q")
        size = await self._record.store.read(lambda reader: reader.size(), epoch=epoch)
        for first in range(0, size, MAX_SCANNED):

            def look(reader: LogReader, first: int = first) -> list[int]:
                return reader.of_subject(erasing.number, first, MAX_SCANNED)

            found.extend(await self._record.store.read(look, epoch=epoch))
        return found

    async def _empty(self) -> None:
        """Raises: StorageError ("erasure_waits")."""
        for _ in range(TRIES):
            if await self._truncate():
                return
            await self._clock.sleep(TRY_SECONDS)
        raise StorageError(
            "the key is destroyed, but somebody reads the home's files, and their write-ahead log "
            "may hold traces until then: the agent finishes this by itself",
            code="erasure_waits",
        )

    # --- legal holds -----------------------------------------------------------------------------

    async def holds(self) -> Sequence[Hold]:
        """Those that stand. Raises: StorageError."""
        return await self._subjects.holds()

    async def hold(self, reference: str, subject: str | None) -> Hold:
        """From now on nothing ends of a subject; None: of anybody.

        It stands before it is on record: what is not recorded has held too much, never too little.
        Raises: BadRequest (reference, subject, too many), StorageFull, StorageError.
        """
        if _REFERENCE.fullmatch(reference) is None:
            raise BadRequest(
                "reference: not 1 to 64 letters, digits and ._/- (a case's number; it is recorded "
                "openly)",
                param="reference",
            )
        if subject is not None:
            _check_subject(subject)
        if len(await self._subjects.holds()) >= MAX_HOLDS:
            raise BadRequest(f"{MAX_HOLDS} legal holds stand already: lift others first")
        made = Hold(self._ids.new(), reference, self._clock.now_ns(), subject)
        async with self._turn:  # an erasure that began is over then
            await self._subjects.hold(made)
        await self._record.append(drafts.hold(made.name, reference, stands=True, subject=subject))
        return made

    async def lift(self, name: str) -> Hold:
        """End a hold; on record before it ends. Raises: BadRequest, StorageFull, StorageError."""
        for hold in await self._subjects.holds():
            if hold.name == name:
                draft = drafts.hold(name, hold.reference, stands=False, subject=hold.subject)
                await self._record.append(draft)
                await self._subjects.lift(name)
                return hold
        raise BadRequest(
            "no legal hold has that name; `exclave-agent audit holds` shows them", param="hold"
        )


def _check_subject(subject: str) -> None:
    if not 0 < len(subject) <= MAX_SUBJECT:
        raise BadRequest(f"subject: not 1 to {MAX_SUBJECT} characters", param="subject")
