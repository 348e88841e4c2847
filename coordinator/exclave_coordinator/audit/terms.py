"""Fencing: one process at a time writes an agent's log, and shows that it follows the one before.

A home that was copied, or put back from a backup, signs with the same certified name as the one
it was copied from. So a term is begun by telling the nonce of the term before, which is told
once: who tells it second, or never had it, is refused, and the heads that both signed are kept.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from exclave_coordinator.audit.chain import leaves_missing
from exclave_coordinator.audit.epochs import check_epoch
from exclave_coordinator.audit.subjects import TERM
from exclave_coordinator.errors import (
    CoordinatorError,
    Denied,
    Fenced,
    Inconsistent,
    Invalid,
    Precondition,
    Stale,
)
from exclave_coordinator.ports import AgentKey, Clock, Evidence, Log, Store, Tx
from exclave_coordinator.term_ports import Term
from exclave_protocol.checkpoint import (
    Checkpoint,
    OpenedCheckpoint,
    agent_log_key,
    log_origin,
    open_signed,
)
from exclave_protocol.errors import NoteError, ProofError
from exclave_protocol.term import NONCE_SIZE, TermCertificate, opens
from exclave_protocol.tree import HASH_SIZE, Frontier, verify_consistency
from exclave_protocol.wire import MAX_NONCES
from exclave_protocol.witness import MAX_PROOF

MAX_KEPT = 64
"""Heads kept of processes that do not hold a log: a few prove it, and more would fill the disk."""
_TOKEN_SIZE = 1 + 8 + 8 + 32 + 32


@dataclass(frozen=True, slots=True)
class Claim:
    """What a process says that wants to write the log."""

    epoch: int
    note: bytes
    """Its head, signed by the key of its term."""
    old_size: int
    """Of the newest cosigned checkpoint, where the proof begins."""
    proof: Sequence[bytes]
    commitment: bytes
    """To the nonce of the new term."""
    nonces: Sequence[bytes]
    """Of former terms: one of them must open the last one's commitment."""
    token: bytes
    """What was given for the last term that it knows to be registered; empty: none."""


class Fence:
    """Begins terms, and keeps everybody else from writing."""

    def __init__(
        self,
        store: Store,
        trust_domain: str,
        secret: bytes,
        *,
        clock: Clock,
        alarm: Callable[[str], None],
    ) -> None:
        """`secret`: what the tokens' MAC is made with; the same after a restore, or agents that
        are ahead of the backup could not come back."""
        self._store = store
        self._domain = trust_domain
        self._secret = secret
        self._clock = clock
        self._alarm = alarm

    async def begin(self, key: AgentKey, audit_key: bytes, claim: Claim) -> bytes:
        """Register a term; returns its fencing token. Idempotent for one term and key.

        Raises: Invalid, Denied (signature), Precondition (epoch_not_open, log_of_another_key),
        Stale (old_size), Fenced and Inconsistent (the head is kept as evidence).
        """
        _check_shape(claim)
        origin = log_origin(self._domain, key.tenant, key.name, claim.epoch)
        try:
            opened = open_signed(claim.note, agent_log_key(origin, audit_key))
        except NoteError as error:
            raise Denied(
                f"head: not signed in a term of this agent's log ({error.message})",
                code="signature",
            ) from error
        certificate = opened.certificate
        assert certificate is not None, "a log's key of this type signs in terms alone"
        outcome = await self._store.write(
            lambda tx: self._begin(tx, key, audit_key, claim, opened, certificate)
        )
        if isinstance(outcome, CoordinatorError):
            if isinstance(outcome, Fenced | Inconsistent):
                self._alarm(TERM)
            raise outcome
        return outcome

    def _begin(
        self,
        tx: Tx,
        key: AgentKey,
        audit_key: bytes,
        claim: Claim,
        opened: OpenedCheckpoint,
        certificate: TermCertificate,
    ) -> bytes | CoordinatorError:
        """A refusal is returned, not raised: its evidence must not be rolled back."""
        check_epoch(tx, key, claim.epoch)
        log = tx.logs.get(key, claim.epoch)
        if log is not None and log.audit_key != audit_key:
            raise Precondition(
                f"epoch {claim.epoch} of this log was written with another key: a new home needs "
                "a new epoch, which an operator opens (exclave agent reopen)",
                code="log_of_another_key",
            )
        log = log or tx.logs.create(key, claim.epoch, audit_key)
        known = tx.terms.get(log.id)
        token = self._token(log, certificate.term, claim.commitment)
        if known is not None:
            if (known.number, known.public) == (certificate.term, certificate.public):
                return self._token(log, known.number, known.commitment)
            if not self._follows(log, known, certificate, claim):
                detail = f"signed in term {certificate.term} beside term {known.number}"
                return self._keep(tx, log, opened.checkpoint, claim.note, detail, known)
        if fault := _contradiction(tx, log, claim, opened.checkpoint):
            self._insert(tx, log, opened.checkpoint, claim.note, fault)
            return Inconsistent(f"head: {fault}; kept as evidence")
        tx.terms.put(
            log.id,
            Term(
                certificate.term,
                certificate.public,
                claim.commitment,
                claim.note,
                self._clock.now(),
            ),
        )
        return token

    def _follows(self, log: Log, known: Term, certificate: TermCertificate, claim: Claim) -> bool:
        """Whether the claimant is who held the log last."""
        if certificate.term <= known.number:
            return False
        committed = known.commitment
        ahead = self._open_token(log, claim.token)
        if ahead is not None and ahead[0] > known.number:
            # We gave it, and do not remember: this database was restored from a backup.
            if certificate.term <= ahead[0]:
                return False
            committed = ahead[1]
        return any(opens(nonce, committed) for nonce in claim.nonces)

    def check(self, tx: Tx, log: Log, number: int) -> None:
        """Raises: Fenced when another term than `number` holds the log."""
        known = tx.terms.get(log.id)
        if known is not None and known.number != number:
            raise Fenced(
                f"term: {number} where term {known.number} holds this log: another process of "
                "this agent writes it now",
                note=known.note,
            )

    def _keep(
        self, tx: Tx, log: Log, head: Checkpoint, note: bytes, detail: str, known: Term
    ) -> Fenced:
        # Both heads: the other one would be gone with the next term.
        self._insert(tx, log, head, note, detail)
        self._insert(tx, log, head, known.note, f"of term {known.number}, beside which it was")
        return Fenced(
            f"term: not the one that holds this log ({detail}): this home is a copy, or there is "
            "one; both signed heads are kept as evidence",
            note=known.note,
        )

    def _insert(self, tx: Tx, log: Log, head: Checkpoint, note: bytes, detail: str) -> None:
        kept = [e for e in tx.logs.evidence(log.key) if e.epoch == log.epoch and e.kind == TERM]
        if len(kept) >= MAX_KEPT:
            return
        tx.logs.insert_evidence(
            Evidence(log.key, log.epoch, head.size, TERM, self._clock.now(), detail, note)
        )

    # --- tokens -----------------------------------------------------------------------------

    def _token(self, log: Log, term: int, commitment: bytes) -> bytes:
        head = b"\x01" + log.epoch.to_bytes(8, "big") + term.to_bytes(8, "big") + commitment
        return head + self._mac(log, head)

    def _open_token(self, log: Log, token: bytes) -> tuple[int, bytes] | None:
        """Term and commitment of a token that we gave for this log; None: it is none."""
        head, mac = token[:-32], token[-32:]
        if len(token) != _TOKEN_SIZE or not hmac.compare_digest(mac, self._mac(log, head)):
            return None
        if head[:1] != b"\x01" or int.from_bytes(head[1:9], "big") != log.epoch:
            return None
        return int.from_bytes(head[9:17], "big"), head[17:]

    def _mac(self, log: Log, head: bytes) -> bytes:
        origin = log_origin(self._domain, log.key.tenant, log.key.name, log.epoch)
        return hmac.digest(self._secret, origin.encode() + b"\n" + head, sha256)


def _check_shape(claim: Claim) -> None:
    if len(claim.commitment) != HASH_SIZE:
        raise Invalid("commitment: must be 32 bytes")
    if len(claim.nonces) > MAX_NONCES or any(len(n) != NONCE_SIZE for n in claim.nonces):
        raise Invalid(f"nonces: more than {MAX_NONCES}, or not {NONCE_SIZE} bytes each")
    if len(claim.token) > _TOKEN_SIZE:
        raise Invalid("token: not one of ours")
    if len(claim.proof) > MAX_PROOF or any(len(i) != HASH_SIZE for i in claim.proof):
        raise Invalid(f"consistency_proof: more than {MAX_PROOF} hashes, or not 32 bytes each")


def _contradiction(tx: Tx, log: Log, claim: Claim, head: Checkpoint) -> str:
    """Why the head cannot be of the log that is here; "": it continues it.

    Raises: Stale, Invalid, StorageError (what must be here is not).
    """
    if claim.old_size != log.witnessed_size:
        raise Stale(
            f"old_size: {claim.old_size} where {log.witnessed_size} leaves are cosigned",
            size=log.witnessed_size,
        )
    if head.size < claim.old_size:
        raise Invalid("head: smaller than old_size")
    frontier = Frontier.from_peaks(log.witnessed_size, log.peaks)
    try:
        verify_consistency(
            claim.old_size, frontier.root(), head.size, head.root, tuple(claim.proof)
        )
    except ProofError as error:
        return f"does not extend the cosigned head ({error.message})"
    if head.size <= log.size:
        fresh = tx.logs.hashes(log.id, log.witnessed_size, head.size)
        if len(fresh) != head.size - log.witnessed_size:
            raise leaves_missing(head.origin, log.witnessed_size, head.size)
        frontier.extend(fresh)
        if frontier.root() != head.root:
            return f"is not over the {head.size} leaves that were uploaded"
    return ""
