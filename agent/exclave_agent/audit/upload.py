"""Carries leaves to the coordinator and brings its witness's cosignature back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from exclave_agent.errors import AuditDiverged, LinkError, StorageError
from exclave_agent.ports import AuditHead, AuditSink, Clock, Rng, TermClaim
from exclave_agent.slots import pause
from exclave_protocol.checkpoint import (
    Checkpoint,
    open_checkpoint,
    open_signed,
    verify_cosignature,
)
from exclave_protocol.errors import ProofError, ProtocolError
from exclave_protocol.note import VerifyKey, add_signature, split_note
from exclave_protocol.tree import root
from exclave_protocol.wire import MAX_BATCH_BYTES, MAX_BATCH_LEAVES

from . import drafts
from .append import Log
from .checkpoint import Checkpointer
from .epoch import Frost
from .ondisk import check_unsent, prove
from .store import LogReader, StoredCheckpoint
from .term import Terms

log = logging.getLogger(__name__)

INTERVAL = 300.0
"""Seconds after which the coordinator is asked even when nothing was appended."""
PAUSE = 1.0
"""Seconds between rounds: leaves of one second share a checkpoint."""
AHEAD_SECONDS = 300
"""By which the witness's clock may be ahead of ours."""
BACKOFF_FIRST = 1.0
BACKOFF_MOST = 300.0

_DIVERGED = frozenset(
    {"leaf_conflict", "leaf_invalid", "term_inconsistent", "witness_inconsistent"}
)
"""Refusals that are no outage: what it holds is not what we wrote."""


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """Where the upload stands, for `status` and the telemetry."""

    uploaded: int = 0
    """Leaves that the coordinator says it has stored."""
    witnessed: int = 0
    """Size of the newest head whose cosignature we have verified."""
    error: str = ""
    """Code of the last failure; empty while all is well."""
    proven: bool = False
    """Whether the coordinator holds our term for the one that writes this log."""


class Uploader:
    """One task: upload what is new, have the head cosigned, wait, go on.

    Before anything is uploaded this process shows that it follows the one that held the log last.
    A coordinator that contradicts what we wrote is recorded once (INCIDENT, with its words
    kept as evidence) and asked again at the slowest pace. The agent itself goes on, unless our own
    signature proves it: then this home is a copy, or was put back, and its log is frozen.
    """

    def __init__(
        self,
        record: Log,
        checkpointer: Checkpointer,
        sink: AuditSink,
        *,
        terms: Terms,
        witness: VerifyKey,
        freeze: Callable[[Frost], Awaitable[None]],
        proven: Callable[[], None] = lambda: None,
        clock: Clock,
        rng: Rng,
        interval: float = INTERVAL,
    ) -> None:
        """`terms`: ours, one of which runs. `witness`: the coordinator's cosigner key. `freeze` is
        told when the log was shown not to be the one that goes on, `proven` when it is."""
        self._record = record
        self._store = record.store
        self._checkpointer = checkpointer
        self._sink = sink
        self._terms = terms
        self._key = terms.log_key
        self._witness = witness
        self._freeze = freeze
        self._proven = proven
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._known = False
        self._status = UploadStatus()
        self._retry = asyncio.Event()
        self._repaced = asyncio.Event()

    @property
    def status(self) -> UploadStatus:
        """A snapshot."""
        return self._status

    def set_interval(self, seconds: float) -> None:
        """Look for new leaves at another pace, counted from now."""
        self._interval = seconds
        self._repaced.set()

    def begin_term(self) -> None:
        """Another term runs: show it before the next upload."""
        self._status = replace(self._status, proven=False)
        self._record.grown.set()

    def retry_now(self) -> None:
        """The coordinator is there again: end a wait after a failure early."""
        self._retry.set()

    async def run(self) -> None:
        """Own this by the component's task group; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            await self._loop()

    async def _tick(self) -> None:
        while True:
            if await pause(self._clock, self._interval, self._repaced):
                continue
            self._known = False  # ask again: a coordinator restored from a backup says so then
            self._record.grown.set()

    async def _loop(self) -> None:
        delay = BACKOFF_FIRST
        while True:
            self._record.grown.clear()
            try:
                await self.once()
            except AuditDiverged as error:
                await self._report(error)
                delay = BACKOFF_MOST
            except (LinkError, StorageError) as error:
                log.warning("audit upload: %s", error.message)
                self._failed(error.code)
            else:
                delay = BACKOFF_FIRST
                await self._clock.sleep(PAUSE)
                await self._record.grown.wait()
                continue
            # Full jitter: agents that lost one coordinator do not return as one.
            await pause(self._clock, self._rng.uniform(0.1, 1.0) * delay, self._retry)
            delay = min(delay * 2, BACKOFF_MOST)

    def _failed(self, code: str) -> None:
        self._known = False
        self._status = replace(self._status, error=code, proven=False)

    async def _report(self, error: AuditDiverged) -> None:
        self._failed(error.code)
        await self._note(error)
        if await self._proves(error.note):
            await self._freeze(Frost(error.code, error.message))
            await self._hand_in()

    async def _hand_in(self) -> None:
        """Have our own head kept beside the other one: together they show that there were two."""
        try:
            signed = await self._checkpointer.sign()
            old = self._status.witnessed
            # Without a nonce it begins nothing: it is refused, and kept.
            await self._sink.begin_term(
                TermClaim(self._store.epoch, signed.note, old, (), bytes(32), (), b"")
            )
        except (LinkError, StorageError) as error:
            log.info("our head was handed in as evidence (%s)", error.code)

    async def _proves(self, note: bytes) -> bool:
        """Whether our own signature is under a head that is not of this home's log: the word of a
        coordinator alone freezes nothing."""
        if not note:
            return False
        try:
            key = self._terms.key_of(note)
            opened = open_signed(note, key)
        except ProtocolError:
            return False
        if key != self._key:
            return True  # a later epoch, which this home did not begin
        if opened.certificate is None or not self._terms.made(opened.certificate):
            return True
        ours, claimed = await self._store.head(), opened.checkpoint
        if claimed.size > ours.size:
            return True
        return (
            await self._store.read(lambda reader: root(claimed.size, reader.node)) != claimed.root
        )

    async def _note(self, error: AuditDiverged) -> None:
        """Put on record, once for the same evidence, what it said."""
        log.error("the coordinator contradicts our log: %s", error.message)
        draft = drafts.incident(error.code, error.message, evidence=error.evidence)
        try:
            await self._record.append_once(error.code.encode() + b"\n" + error.evidence, draft)
        except StorageError as failure:
            log.warning("incident not recorded: %s", failure.message)

    async def once(self) -> None:
        """One round: upload everything, then one cosigned checkpoint over it.

        Raises: LinkError, AuditDiverged, StorageError.
        """
        if not self._known:
            await self._learn()
        if not self._status.proven:
            await self._prove_term()
        await self._upload()
        if self._status.witnessed < self._status.uploaded:
            await self._cosign()
        self._status = replace(self._status, error="")

    # --- what the coordinator says it has ----------------------------------------------------

    async def _learn(self) -> None:
        head = await self._sink.head(self._store.epoch)
        evidence = f"{head.size}\n{head.witnessed_size}\n".encode() + head.checkpoint
        ours = await self._store.head()
        known = await self._store.read(lambda reader: reader.checkpoint(cosigned=True))
        if head.size > ours.size:
            raise AuditDiverged(
                f"the coordinator claims {head.size} leaves of our {ours.size}",
                code="head_ahead",
                evidence=evidence,
                note=head.checkpoint,
            )
        if head.witnessed_size:
            await self._check_witnessed(head, evidence)
        if known is not None and head.witnessed_size < known.size:
            # What it has is a beginning of ours, proven just now: it was restored from a
            # backup, or forgets on purpose. Either way it goes on record, and gets the rest again.
            await self._note(
                AuditDiverged(
                    f"the coordinator cosigned our head of size {known.size} and now admits to "
                    f"{head.witnessed_size}",
                    code="head_rolled_back",
                    evidence=evidence,
                )
            )
        self._known = True
        # One that was restored from a backup may hold a former term of ours for the last.
        proven = self._status.proven and head.term == self._terms.number
        self._status = UploadStatus(head.size, head.witnessed_size, proven=proven)

    async def _check_witnessed(self, head: AuditHead, evidence: bytes) -> None:
        """Its newest cosigned head must be one that we signed, over what we hold."""
        try:
            claimed = self._open_witnessed(head)
        except ProtocolError as error:
            raise AuditDiverged(
                f"the coordinator's checkpoint does not verify: {error.message}",
                code="head_foreign",
                evidence=evidence,
            ) from error
        if claimed.size != head.witnessed_size or claimed.size > head.size:
            raise AuditDiverged(
                "the coordinator's sizes contradict its own checkpoint",
                code="head_foreign",
                evidence=evidence,
            )
        held = await self._store.read(lambda reader: root(claimed.size, reader.node))
        if held != claimed.root:
            raise AuditDiverged(
                f"our key signed another tree of size {claimed.size} than this home holds: a "
                "copy or a restored backup of it is at work elsewhere",
                code="head_forked",
                evidence=evidence,
                note=head.checkpoint,
            )
        note = StoredCheckpoint(claimed.size, head.checkpoint, cosigned=True)
        await self._store.save_checkpoint(note)

    def _open_witnessed(self, head: AuditHead) -> Checkpoint:
        claimed = open_checkpoint(head.checkpoint, self._key)
        text, signatures = split_note(head.checkpoint)
        for signature in signatures:
            if (signature.name, signature.key_id) == (self._witness.name, self._witness.id):
                self._witness.verify(text, signature)
                return claimed
        raise ProofError("the witness has not cosigned it")

    # --- whose log it is -----------------------------------------------------------------------

    async def _prove_term(self) -> None:
        """Begin our term at the coordinator, over a head of the log as it is now.

        Raises: LinkError, AuditDiverged, StorageError.
        """
        signed = await self._checkpointer.sign()
        old = self._status.witnessed
        proof = await prove(self._store, old, signed.checkpoint)
        number = self._terms.number
        commitment, nonces, token = await self._terms.claim()
        claim = TermClaim(self._store.epoch, signed.note, old, proof, commitment, nonces, token)
        try:
            given = await self._sink.begin_term(claim)
        except AuditDiverged:
            raise
        except LinkError as error:
            raise _sharpen(error, f"term {number} {old} {signed.checkpoint.size}") from error
        if number == self._terms.number:
            await self._terms.confirmed(given)
            self._status = replace(self._status, proven=True)
            self._proven()

    # --- leaves up, cosignature down -----------------------------------------------------------

    async def _upload(self) -> None:
        sound = 0
        while True:
            first = self._status.uploaded
            if first >= sound:
                sound = await check_unsent(self._store, first)
            limit = min(MAX_BATCH_LEAVES, sound - first)

            def batch(reader: LogReader, first: int = first, limit: int = limit) -> list[bytes]:
                return reader.leaves(first, limit, MAX_BATCH_BYTES)

            leaves = await self._store.read(batch) if limit > 0 else []
            if not leaves:
                return
            size = await self._call_append(first, leaves)
            end = first + len(leaves)
            if size > (await self._store.head()).size:
                raise AuditDiverged(
                    f"the coordinator claims {size} leaves, more than we have written",
                    code="head_ahead",
                    evidence=f"append {first} {end} {size}".encode(),
                )
            if size < end:
                raise LinkError(
                    f"the coordinator stored {size} leaves of {end}", code="upload_short"
                )
            self._status = replace(self._status, uploaded=size)

    async def _call_append(self, first: int, leaves: list[bytes]) -> int:
        try:
            return await self._sink.append(
                self._store.epoch, first, leaves, term=self._terms.number
            )
        except AuditDiverged:
            raise
        except LinkError as error:
            raise _sharpen(error, f"append {first}") from error

    async def _cosign(self) -> None:
        signed = await self._checkpointer.sign()
        old = self._status.witnessed
        if signed.checkpoint.size > self._status.uploaded:
            # Leaves came in meanwhile: they must be there before their head is shown.
            await self._upload()
        proof = await prove(self._store, old, signed.checkpoint)
        try:
            line = await self._sink.witness(self._store.epoch, old, proof, signed.note)
        except AuditDiverged:
            raise
        except LinkError as error:
            raise _sharpen(error, f"witness {old} {signed.checkpoint.size}") from error
        try:
            text, _ = split_note(signed.note)
            at = verify_cosignature(text, line, self._witness)
            if at > self._clock.now_ns() // 10**9 + AHEAD_SECONDS:
                # Dated ahead it would not show later that this head was known before a bundle.
                raise ProofError(f"it is dated ahead of this machine's clock ({at})")
            note = add_signature(signed.note, line)
        except ProtocolError as error:
            raise AuditDiverged(
                f"the witness's cosignature does not verify: {error.message}",
                code="cosignature_invalid",
                evidence=signed.note + line,
            ) from error
        size = signed.checkpoint.size
        await self._store.save_checkpoint(StoredCheckpoint(size, note, cosigned=True))
        self._status = replace(self._status, witnessed=size)


def _sharpen(error: LinkError, call: str) -> LinkError:
    """A refusal that means another history is a divergence, not an outage."""
    if error.code in _DIVERGED:
        return AuditDiverged(
            f"the coordinator holds another history: {error.message}",
            code=error.code,
            evidence=f"{call}\n{error.code}\n{error.message}".encode(),
        )
    return error
