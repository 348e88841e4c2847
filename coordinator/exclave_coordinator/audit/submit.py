"""Our own logs to outside witnesses: what is new is sent until each of them has cosigned it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from exclave_coordinator.audit.chain import Head, OwnLog
from exclave_coordinator.errors import (
    CoordinatorError,
    Inconsistent,
    Refused,
    Stale,
    StorageError,
    Unavailable,
)
from exclave_coordinator.ports import Clock, Rng, Store, Tx
from exclave_coordinator.witness_ports import Cosignature, OutsideWitness
from exclave_protocol.errors import NoteError
from exclave_protocol.note import VerifyKey, add_signature, parse_lines, split_note
from exclave_protocol.tree import Frontier

log = logging.getLogger(__name__)

BACKOFF: Final = (1.0, 300.0)
"""Seconds: the ceiling after the first failure, and the highest; what is waited is a random part
of it, so that a witness that comes back is not met by everybody at once."""
AHEAD_SECONDS: Final = 600
"""How far a witness's clock may be ahead of ours."""


@dataclass(slots=True)
class Standing:
    """How things are between a witness and one of our logs, for people and metrics."""

    code: str = ""
    """Of the last refusal; empty: the last request was granted, or none was made."""
    message: str = ""


class Told(Protocol):
    """Who is told how it goes."""

    def outcome(self, witness: str, outcome: str) -> None:
        """A request ended: "cosigned", or the refusal's code."""
        ...

    def lag(self, log: str, witness: str, leaves: int, cosigned_at: int) -> None:
        """So many leaves of a log are not cosigned; when it last was, epoch seconds, 0: never."""
        ...


class Submitter:
    """Every own log to every witness; each witness has a task of its own."""

    def __init__(
        self,
        store: Store,
        logs: Sequence[OwnLog],
        *,
        seconds: float,
        clock: Clock,
        rng: Rng,
        told: Told,
    ) -> None:
        """`seconds`: between two looks at what is new."""
        self._store = store
        self._logs = logs
        self._seconds = seconds
        self._clock = clock
        self._rng = rng
        self._told = told
        self._standing: dict[tuple[str, str], Standing] = {}

    @property
    def standing(self) -> Mapping[tuple[str, str], Standing]:
        """By (origin of our log, vkey of the witness)."""
        return self._standing

    async def run(self, witness: OutsideWitness) -> None:
        """Submit until cancelled. One task runs this for each witness."""
        failures = 0
        while True:
            granted = [await self.submit(own, witness) for own in self._logs]
            failures = 0 if all(granted) else failures + 1
            await self._clock.sleep(self._pause(failures))

    async def submit(self, own: OwnLog, witness: OutsideWitness) -> bool:
        """Have one log's head cosigned if it is not; False: it is not, and why is on `standing`."""
        standing = self._standing.setdefault((own.origin, witness.key.vkey), Standing())
        try:
            await self._submit(own, witness)
        except (Refused, StorageError) as error:
            self._failed(own, witness, standing, error)
            return False
        standing.code, standing.message = "", ""
        return True

    def _pause(self, failures: int) -> float:
        if not failures:
            return self._seconds
        low, high = BACKOFF
        return self._rng.uniform(0.0, min(high, low * 2.0 ** min(failures - 1, 16)))

    def _failed(
        self, own: OwnLog, witness: OutsideWitness, standing: Standing, error: CoordinatorError
    ) -> None:
        """Said when it changes: a witness that is down for a week is one line."""
        self._told.outcome(witness.key.name, error.code)
        if (standing.code, standing.message) == (error.code, error.message):
            return
        standing.code, standing.message = error.code, error.message
        # It remembers another past than we do: a restored backup, or somebody at our database.
        level = logging.ERROR if isinstance(error, Inconsistent) else logging.WARNING
        log.log(level, "%s is not cosigned by %s: %s", own.origin, witness.key.name, error.message)

    async def _submit(self, own: OwnLog, witness: OutsideWitness) -> None:
        vkey = witness.key.vkey
        known = await self._store.read(lambda tx: tx.witnessing.cosignature(own.origin, vkey))
        size = known.size if known is not None else 0
        frontier = Frontier.from_peaks(size, known.peaks) if known is not None else Frontier()
        head = await self._head(own, frontier, size)
        behind = head.state.size - size
        at = known.cosigned_at if known is not None else 0
        self._told.lag(own.origin, witness.key.name, behind, at)
        if not behind:
            return
        try:
            lines = await witness.add_checkpoint(size, head.proof, head.note)
        except Stale as stale:
            # It cosigned more than we know of: an answer was lost, or our database is older.
            head = await self._head(own, frontier, stale.size)
            lines = await witness.add_checkpoint(stale.size, head.proof, head.note)
        cosignature = self._verified(own, witness.key, head, lines)
        await self._store.write(lambda tx: _store(tx, cosignature))
        self._told.outcome(witness.key.name, "cosigned")
        self._told.lag(own.origin, witness.key.name, 0, cosignature.cosigned_at)

    async def _head(self, own: OwnLog, frontier: Frontier, size: int) -> Head:
        def job(tx: Tx) -> Head:
            have = own.table(tx).state().size
            if size > have:
                raise Inconsistent(
                    f"the witness cosigned {size} leaves where we have {have}: this database is "
                    "older than what was cosigned",
                    code="ahead",
                )
            return own.head_after(tx, frontier if size >= frontier.size else Frontier(), size)

        return await self._store.read(job)

    def _verified(self, own: OwnLog, key: VerifyKey, head: Head, lines: bytes) -> Cosignature:
        """The witness's own line under our note. Raises: Unavailable when there is none."""
        text = split_note(head.note)[0]
        try:
            ours = [s for s in parse_lines(lines) if (s.name, s.key_id) == (key.name, key.id)]
            if not ours:
                raise NoteError("no signature by its key")
            signed = key.verify(text, ours[0])
        except NoteError as error:
            raise Unavailable(
                f"the witness's answer is no cosignature ({error.message})", code="bad_answer"
            ) from error
        assert signed.timestamp is not None  # a type 0x04 key always yields one
        if not 0 < signed.timestamp <= self._clock.now() + AHEAD_SECONDS:
            raise Unavailable("the witness's clock is wrong", code="bad_answer")
        note = add_signature(head.note, signed.line())
        state = head.state
        return Cosignature(own.origin, key.vkey, state.size, state.peaks, signed.timestamp, note)


def _store(tx: Tx, new: Cosignature) -> None:
    known = tx.witnessing.cosignature(new.log, new.witness)
    if known is None or known.size <= new.size:
        tx.witnessing.put_cosignature(new)
