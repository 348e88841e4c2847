"""The witness: cosigns a checkpoint only when it extends all that was cosigned before.

C2SP tlog-witness. Of agents' logs we hold the leaves, so there the root itself is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.subjects import (
    PROOF,
    TERM,
    AgentSubject,
    Contradiction,
    OutsideSubject,
    Subject,
    Submitted,
)
from exclave_coordinator.errors import (
    Denied,
    Fenced,
    Inconsistent,
    Invalid,
    NotFound,
    Precondition,
    Stale,
)
from exclave_coordinator.ports import ACTIVE, AgentKey, Clock, Log, Store, Tx
from exclave_coordinator.witness_ports import OutsideLog
from exclave_protocol.checkpoint import Checkpoint, CosignerKey, cosign, log_origin
from exclave_protocol.errors import NoteError
from exclave_protocol.note import VerifyKey, add_signature, open_note, split_note
from exclave_protocol.proof import Proof
from exclave_protocol.tree import HASH_SIZE
from exclave_protocol.witness import MAX_PROOF, AddCheckpoint

MAX_TEXT = 4096
"""Characters of a checkpoint's text: extension lines are kept as they stand."""
FRESH_SECONDS = 60
"""A checkpoint that was cosigned this lately gets the same line again, and no leaf: else whoever
has a copy of it could make our own log grow as fast as they can ask."""


class Witness:
    """One witness key over all agents' logs and the outside logs that we were told of."""

    def __init__(
        self,
        store: Store,
        trust_domain: str,
        key: CosignerKey,
        cosigned: CosignedLog,
        *,
        outside: Iterable[VerifyKey] = (),
        clock: Clock,
        alarm: Callable[[str], None],
    ) -> None:
        """`outside`: keys of outside logs, each named after its log's origin; several of one
        name may each sign. `alarm` is told the kind of every contradiction that is kept."""
        self._store = store
        self._domain = trust_domain
        self._key = key
        self._log = cosigned
        self._outside = _by_name(outside)
        self._clock = clock
        self._alarm = alarm

    @property
    def vkey(self) -> str:
        """The verifier key text that agents and auditors trust."""
        return self._key.vkey

    def cosigned(self, log: Log) -> bytes:
        """The newest cosigned checkpoint of a log as a note; empty: none.

        Ed25519 is deterministic: this is the very line that the agent was given.
        """
        if not log.checkpoint:
            return b""
        text = split_note(log.checkpoint)[0]
        return add_signature(log.checkpoint, cosign(text, self._key, log.witnessed_at))

    async def on_record(self, key: AgentKey, epoch: int) -> bytes:
        """The proof that the newest cosignature of an agent's log is in our own log; empty: none
        was given. Raises: StorageError."""

        def job(tx: Tx) -> bytes:
            log = tx.logs.get(key, epoch)
            if log is None or not log.checkpoint:
                return b""
            head = Checkpoint.parse(split_note(log.checkpoint)[0])
            proof = self._log.recorded(tx, head, log.witnessed_at)
            return proof.encode() if proof is not None else b""

        return await self._store.read(job)

    def recorded(self, tx: Tx, head: Checkpoint, cosigned_at: int) -> Proof | None:
        """See `CosignedLog.recorded`."""
        return self._log.recorded(tx, head, cosigned_at)

    async def witness(
        self, key: AgentKey, epoch: int, old_size: int, proof: Sequence[bytes], note: bytes
    ) -> bytes:
        """Verify a checkpoint that the agent itself hands in; returns our cosignature line.

        Raises: Invalid (note, proof unreadable), Denied (signature, origin), Stale (old_size),
        Precondition (leaves_missing), Fenced and Inconsistent (kept as evidence).
        """
        log = await self._store.read(lambda tx: tx.logs.get(key, epoch))
        if log is None:
            raise Precondition(
                "no leaf of this epoch is stored: upload first", code="leaves_missing"
            )
        subject = AgentSubject(log, log_origin(self._domain, key.tenant, key.name, epoch))
        request = AddCheckpoint(old_size, tuple(proof), note)
        return await self._cosign(subject, request, by_its_log=True)

    async def add_checkpoint(self, request: AddCheckpoint) -> bytes:
        """Verify a checkpoint that anybody hands in; returns our cosignature line.

        Raises: NotFound (no log of that origin), Denied (also: the agent is banned or evicted);
        the others as `witness`. A proof that fails is not evidence here: whoever sent it may
        not be the log.
        """
        try:
            origin = split_note(request.note)[0].partition("\n")[0]
        except NoteError as error:
            raise Invalid(f"checkpoint: {error.message}", code="note") from error
        subject = await self._store.read(lambda tx: self._find(tx, origin))
        return await self._cosign(subject, request, by_its_log=False)

    def _find(self, tx: Tx, origin: str) -> Subject:
        if keys := self._outside.get(origin):
            return OutsideSubject(tx.witnessing.log(origin) or OutsideLog(origin), keys)
        domain, _, rest = origin.partition("/")
        tenant, _, place = rest.partition("/")
        agent, _, last = place.partition("/e")
        if domain == self._domain and last.isascii() and last.isdigit() and len(last) < 17:
            key = AgentKey(tenant, agent)
            log = tx.logs.get(key, int(last))
            # Written as we write it ourselves, or it is another origin.
            if log is not None and origin == log_origin(domain, tenant, agent, log.epoch):
                _check_active(tx, key)
                return AgentSubject(log, origin)
        raise NotFound("checkpoint: its origin is no log that this witness knows")

    async def _cosign(self, subject: Subject, request: AddCheckpoint, *, by_its_log: bool) -> bytes:
        """The one way to a cosignature.

        MUST: the checkpoint, and its leaf in the witness's log, are in the database in one
        transaction before its cosignature exists anywhere. MUST: that transaction finds the
        size that the proof began at, or changes nothing.
        """
        if len(request.proof) > MAX_PROOF or any(len(i) != HASH_SIZE for i in request.proof):
            raise Invalid(f"consistency_proof: more than {MAX_PROOF} hashes, or not 32 bytes each")
        new = _open(subject, request)
        _check_sizes(subject, request.old_size, new.checkpoint.size)
        judged = await self._store.read(lambda tx: subject.judge(tx, new))
        now = self._clock.now()
        if isinstance(judged, Contradiction):
            if judged.kind == PROOF and not by_its_log:
                raise Inconsistent(f"checkpoint: {judged.detail}")
            if judged.kind == TERM and not by_its_log:
                # Anybody may have kept a head of a former term.
                raise Denied(f"checkpoint: {judged.detail}", code="signature")
            await self._keep(subject, new, judged, now)
            if judged.kind == TERM:
                raise Fenced(f"checkpoint: {judged.detail}; kept as evidence", note=judged.other)
            raise Inconsistent(f"checkpoint: {judged.detail}; kept as evidence")
        if _is_repeated(subject, new) and 0 <= now - subject.cosigned_at < FRESH_SECONDS:
            return cosign(new.text, self._key, subject.cosigned_at)

        def persist(tx: Tx) -> None:
            _check_current(subject.current(tx).size, request.old_size)
            judged.persist(tx, new.note, now)
            self._log.append(tx, new.checkpoint, now)

        await self._store.write(persist)
        return cosign(new.text, self._key, now)

    async def _keep(self, subject: Subject, new: Submitted, found: Contradiction, now: int) -> None:
        await self._store.write(lambda tx: subject.keep(tx, new, found, now))
        self._alarm(found.kind)


def _by_name(keys: Iterable[VerifyKey]) -> Mapping[str, tuple[VerifyKey, ...]]:
    named: dict[str, tuple[VerifyKey, ...]] = {}
    for key in keys:
        named[key.name] = (*named.get(key.name, ()), key)
    return named


def _check_active(tx: Tx, key: AgentKey) -> None:
    """As at the gRPC port, where the call would not have been let in."""
    agent = tx.agents.get(key)
    if agent is None or agent.state != ACTIVE:
        state = agent.state if agent is not None else "unknown"
        raise Denied(f"checkpoint: the log's agent is {state}", code=state)


def _open(subject: Subject, request: AddCheckpoint) -> Submitted:
    """The checkpoint and its text, signature and origin verified."""
    try:
        text, _ = split_note(request.note)
        checkpoint = Checkpoint.parse(text, extensions=subject.extensions)
    except NoteError as error:
        raise Invalid(f"checkpoint: {error.message}", code="note") from error
    if len(text) > MAX_TEXT:
        raise Invalid(f"checkpoint: more than {MAX_TEXT} characters of text", code="note")
    if checkpoint.origin != subject.origin:
        raise Denied("checkpoint: its origin is not the calling agent's log", code="origin")
    try:
        opened = open_note(request.note, subject.keys)
    except NoteError as error:
        raise Denied(
            "checkpoint: not signed by a key registered for this log", code="signature"
        ) from error
    note = text.encode() + b"\n" + b"".join(item.line() for item in opened.verified)
    found = [item.certificate for item in opened.verified if item.certificate is not None]
    return Submitted(checkpoint, text, note, request.proof, found[0] if found else None)


def _is_repeated(subject: Subject, new: Submitted) -> bool:
    return bool(subject.checkpoint) and split_note(subject.checkpoint)[0] == new.text


def _check_sizes(subject: Subject, old_size: int, size: int) -> None:
    if size < old_size:
        raise Invalid("checkpoint: smaller than old_size", code="note")
    _check_current(subject.size, old_size)
    subject.check_held(size)


def _check_current(cosigned: int, old_size: int) -> None:
    if old_size != cosigned:
        raise Stale(f"old_size: {old_size} where {cosigned} leaves are cosigned", size=cosigned)
