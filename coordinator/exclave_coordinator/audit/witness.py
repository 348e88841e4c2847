"""The witness: cosigns an agent's checkpoint only when it extends all that was cosigned before.

C2SP tlog-witness, with one check more: we hold the leaves, so the root itself is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exclave_coordinator.errors import (
    Denied,
    Inconsistent,
    Invalid,
    Precondition,
    Refused,
    Stale,
)
from exclave_coordinator.ports import AgentKey, Clock, Evidence, Log, Store, Tx
from exclave_protocol.checkpoint import Checkpoint, CosignerKey, cosign, log_origin
from exclave_protocol.errors import NoteError, ProofError
from exclave_protocol.note import VerifyKey, add_signature, open_note, split_note
from exclave_protocol.tree import HASH_SIZE, Frontier, verify_consistency

MAX_PROOF = 63


@dataclass(frozen=True, slots=True)
class _Contradiction:
    kind: str
    """"root", "proof" or "fork"."""
    detail: str


class Witness:
    """One witness key over all agents' logs."""

    def __init__(
        self,
        store: Store,
        trust_domain: str,
        key: CosignerKey,
        *,
        clock: Clock,
        alarm: Callable[[str], None],
    ) -> None:
        """`alarm` is told the kind of every contradiction."""
        self._store = store
        self._domain = trust_domain
        self._key = key
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

    async def witness(
        self, key: AgentKey, epoch: int, old_size: int, proof: Sequence[bytes], note: bytes
    ) -> bytes:
        """Verify a signed checkpoint and return our cosignature line.

        MUST: the checkpoint is in the database before its cosignature exists anywhere.

        Raises: Invalid (note, proof unreadable), Denied (signature, origin), Stale (old_size),
        Precondition (leaves_missing), Inconsistent (kept as evidence).
        """
        if len(proof) > MAX_PROOF or any(len(item) != HASH_SIZE for item in proof):
            raise Invalid(f"consistency_proof: more than {MAX_PROOF} hashes, or not 32 bytes each")
        log = await self._store.read(lambda tx: tx.logs.get(key, epoch))
        if log is None:
            raise Precondition(
                "no leaf of this epoch is stored: upload first", code="leaves_missing"
            )
        origin = log_origin(self._domain, key.tenant, key.name, epoch)
        checkpoint, text = _open(note, VerifyKey(origin, log.audit_key))
        _check_sizes(log, old_size, checkpoint.size)
        frontier, contradiction = await self._store.read(
            lambda tx: _judge(tx, log, checkpoint, proof)
        )
        if contradiction is not None:
            await self._keep(log, checkpoint, note, contradiction)
            raise Inconsistent(f"checkpoint: {contradiction.detail}; kept as evidence")
        timestamp = self._clock.now()
        witnessed = replace(
            log,
            witnessed_size=checkpoint.size,
            witnessed_at=timestamp,
            peaks=frontier.peaks,
            checkpoint=note,
        )
        await self._store.write(lambda tx: _persist(tx, witnessed, old_size))
        return cosign(text, self._key, timestamp)

    async def _keep(
        self, log: Log, checkpoint: Checkpoint, note: bytes, found: _Contradiction
    ) -> None:
        evidence = Evidence(
            log.key,
            log.epoch,
            checkpoint.size,
            found.kind,
            self._clock.now(),
            found.detail,
            note,
        )
        await self._store.write(lambda tx: tx.logs.insert_evidence(evidence))
        self._alarm(found.kind)


def _open(note: bytes, key: VerifyKey) -> tuple[Checkpoint, str]:
    """The checkpoint and its text, signature and origin verified."""
    try:
        text, _ = split_note(note)
        checkpoint = Checkpoint.parse(text)
    except NoteError as error:
        raise Invalid(f"checkpoint: {error.message}", code="note") from error
    if checkpoint.origin != key.name:
        raise Denied("checkpoint: its origin is not the calling agent's log", code="origin")
    try:
        open_note(note, [key])
    except NoteError as error:
        raise Denied(
            "checkpoint: not signed by the audit key registered for this log", code="signature"
        ) from error
    return checkpoint, text


def _check_sizes(log: Log, old_size: int, size: int) -> None:
    refusal: Refused | None = None
    if old_size != log.witnessed_size:
        refusal = Stale(
            f"old_size: {old_size} where {log.witnessed_size} leaves are cosigned",
            size=log.witnessed_size,
        )
    elif size < old_size:
        refusal = Invalid("checkpoint: smaller than the one already cosigned", code="note")
    elif size > log.size:
        refusal = Precondition(
            f"checkpoint: {size} leaves where {log.size} are stored: upload the others first",
            code="leaves_missing",
        )
    if refusal is not None:
        raise refusal


def _judge(
    tx: Tx, log: Log, checkpoint: Checkpoint, proof: Sequence[bytes]
) -> tuple[Frontier, _Contradiction | None]:
    """Recompute the root from the leaves since the last checkpoint; check the proof with it."""
    frontier = Frontier.from_peaks(log.witnessed_size, log.peaks)
    old_root = frontier.root()
    frontier.extend(tx.logs.hashes(log.id, log.witnessed_size, checkpoint.size))
    if frontier.size != checkpoint.size or frontier.root() != checkpoint.root:
        kind = "fork" if checkpoint.size == log.witnessed_size else "root"
        return frontier, _Contradiction(
            kind, f"its root is not that of the {checkpoint.size} leaves that were uploaded"
        )
    try:
        verify_consistency(log.witnessed_size, old_root, checkpoint.size, checkpoint.root, proof)
    except ProofError as error:
        return frontier, _Contradiction("proof", f"the consistency proof fails: {error.message}")
    return frontier, None


def _persist(tx: Tx, witnessed: Log, old_size: int) -> None:
    current = tx.logs.get(witnessed.key, witnessed.epoch)
    assert current is not None, "logs are never deleted"
    if current.witnessed_size != old_size:
        raise Stale(
            f"old_size: {old_size} where {current.witnessed_size} leaves are cosigned",
            size=current.witnessed_size,
        )
    tx.logs.set_witnessed(witnessed)
