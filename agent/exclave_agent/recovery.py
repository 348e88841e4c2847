"""Recovery: ends a log that cannot go on where it was cosigned last, and begins the next epoch."""

from __future__ import annotations

import asyncio

from exclave_agent.audit import epoch as epochs
from exclave_agent.audit.epoch import Epoch
from exclave_agent.basis import open_record
from exclave_agent.config import Settings
from exclave_agent.errors import AuditDiverged, BadRequest, LinkError
from exclave_agent.identity.store import IdentityStore
from exclave_agent.link.audit import GrpcAudit
from exclave_agent.link.channel import Channels
from exclave_agent.ports import AuditHead
from exclave_agent.storage.home import Storage
from exclave_agent.system import SystemClock, SystemRng
from exclave_protocol.checkpoint import Checkpoint, log_origin
from exclave_protocol.errors import NoteError
from exclave_protocol.note import VerifyKey, open_note
from exclave_protocol.tree import EMPTY_ROOT

MAX_REASON = 500
SECONDS = 30.0


async def recover(settings: Settings, reason: str) -> Epoch:
    """Make the next start of the agent begin a new epoch.

    What it links is the witness's word, verified: this home may hold less, or something else.
    Raises: BadRequest (reason; "epoch_not_open"), LinkError, AuditDiverged, StorageError (an
    agent runs here), IdentityError. Then nothing was changed.
    """
    if not 0 < len(reason) <= MAX_REASON or not reason.isprintable():
        raise BadRequest(f"reason: not 1 to {MAX_REASON} printable characters", param="reason")
    identities = IdentityStore(settings.home)
    identity = identities.current
    async with await asyncio.to_thread(Storage, settings.home, SystemRng()) as storage:
        present = await epochs.load(storage.state)
        head, before = await _last_begun(identities, present.number)
        held = 0
        if before == present.number:
            record = await open_record(identity, storage, SystemClock(), SystemRng())
            held = record.log.size
        if head.epoch_open <= before:
            raise BadRequest(
                f"epoch {before + 1} is not open: an operator opens it with "
                f"`exclave agent reopen {identity.tenant} {identity.agent} --reason ...`",
                code="epoch_not_open",
            )
        origin = log_origin(identity.trust_domain, identity.tenant, identity.agent, before)
        cosigned = _cosigned(head, origin, VerifyKey.parse(identity.witness_vkey))
        made = Epoch(
            before + 1, origin, cosigned.size, cosigned.root, head.checkpoint, reason, held
        )
        # The frost goes last: cut off in between, the new epoch only has to be begun again.
        await storage.state.put(epochs.EPOCH_KEY, made.encode())
        await storage.state.put(epochs.FROZEN_KEY, None)
        return made


async def _last_begun(identities: IdentityStore, present: int) -> tuple[AuditHead, int]:
    """The newest epoch that the coordinator has leaves or a term of: a new home may be behind."""
    channels = Channels(identities)
    sink = GrpcAudit(channels)
    try:
        async with asyncio.timeout(SECONDS):
            epoch, head = present, await sink.head(present)
            while epoch < head.epoch_open:
                following = await sink.head(epoch + 1)
                if not following.size and not following.term:
                    break
                epoch, head = epoch + 1, following
            return head, epoch
    except TimeoutError:
        raise LinkError(
            "the coordinator does not answer, and only it knows where the log was cosigned last",
            code="timeout",
        ) from None
    finally:
        await channels.close()


def _cosigned(head: AuditHead, origin: str, witness: VerifyKey) -> Checkpoint:
    if not head.checkpoint:
        return Checkpoint(origin, 0, EMPTY_ROOT)
    try:
        found = Checkpoint.parse(open_note(head.checkpoint, [witness]).text)
    except NoteError as error:
        raise _foreign(error.message, head) from error
    if found.origin != origin or found.size != head.witnessed_size:
        raise _foreign("it is of another log, or of another size", head)
    return found


def _foreign(why: str, head: AuditHead) -> AuditDiverged:
    return AuditDiverged(
        f"the coordinator's cosigned head of this log does not verify: {why}",
        code="head_foreign",
        evidence=head.checkpoint,
    )
