"""What the witness may cosign: agents' logs, whose leaves are here, and outside logs by proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from exclave_coordinator.audit.chain import leaves_missing
from exclave_coordinator.audit.epochs import check_epoch
from exclave_coordinator.errors import Precondition
from exclave_coordinator.ports import Evidence, Log, Tx
from exclave_coordinator.witness_ports import OutsideLog
from exclave_protocol.checkpoint import Checkpoint, agent_log_key
from exclave_protocol.errors import ProofError
from exclave_protocol.note import VerifyKey
from exclave_protocol.term import TermCertificate
from exclave_protocol.tree import EMPTY_ROOT, Frontier, verify_consistency

PROOF = "proof"
"""The kind of a contradiction that is the submitter's, perhaps not the log's."""
TERM = "term"
"""The kind of evidence that is signed by a process which does not hold the log."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why a checkpoint that its log signed cannot be cosigned."""

    kind: str
    """"root", "proof", "fork" or "term"."""
    detail: str
    other: bytes = b""
    """Of a term: the head of the one that holds the log."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A checkpoint that its log signed, with the proof that came along."""

    checkpoint: Checkpoint
    text: str
    note: bytes
    """Text and the log's own signatures: lines of others would be anybody's words."""
    proof: tuple[bytes, ...]
    certificate: TermCertificate | None = None
    """Of the term in which an agent signed it."""


class Subject(Protocol):
    """A log as the witness knows it before a request."""

    @property
    def keys(self) -> Sequence[VerifyKey]:
        """Whose signature it takes."""
        ...

    @property
    def origin(self) -> str: ...
    @property
    def extensions(self) -> bool:
        """Whether its checkpoints may have extension lines."""
        ...

    @property
    def size(self) -> int:
        """Of the newest cosigned checkpoint; 0: none."""
        ...

    @property
    def checkpoint(self) -> bytes:
        """That checkpoint as a note; empty: none."""
        ...

    @property
    def cosigned_at(self) -> int:
        """Its cosignature's timestamp."""
        ...

    def check_held(self, size: int) -> None:
        """Raises: Precondition when leaves that must be here are not."""
        ...

    def judge(self, tx: Tx, new: Submitted) -> Contradiction | Subject:
        """What contradicts the checkpoint, or the log as it is known with it. Raises: Fenced,
        StorageError (what must be here is not)."""
        ...

    def current(self, tx: Tx) -> Subject:
        """The same log as it is stored now. Raises: Fenced (a later epoch has begun)."""
        ...

    def persist(self, tx: Tx, note: bytes, cosigned_at: int) -> None:
        """Store what `judge` returned as the newest cosigned checkpoint."""
        ...

    def keep(self, tx: Tx, new: Submitted, found: Contradiction, at: int) -> None:
        """Store a contradiction as evidence."""
        ...


@dataclass(frozen=True, slots=True)
class AgentSubject:
    """An agent's log: the root is recomputed from its leaves."""

    log: Log
    origin: str
    extensions: bool = False

    @property
    def keys(self) -> Sequence[VerifyKey]:
        """The key registered for this epoch."""
        return (agent_log_key(self.origin, self.log.audit_key),)

    @property
    def size(self) -> int:
        """See `Subject.size`."""
        return self.log.witnessed_size

    @property
    def checkpoint(self) -> bytes:
        """See `Subject.checkpoint`."""
        return self.log.checkpoint

    @property
    def cosigned_at(self) -> int:
        """See `Subject.cosigned_at`."""
        return self.log.witnessed_at

    def check_held(self, size: int) -> None:
        """Its leaves are uploaded first. Raises: Precondition."""
        if size > self.log.size:
            raise Precondition(
                f"checkpoint: {size} leaves where {self.log.size} are stored: upload the others "
                "first",
                code="leaves_missing",
            )

    def judge(self, tx: Tx, new: Submitted) -> Contradiction | Subject:
        """Recompute the root from the leaves since the last checkpoint; check the proof with it."""
        check_epoch(tx, self.log.key, self.log.epoch)
        size, checkpoint = self.size, new.checkpoint
        term = tx.terms.get(self.log.id)
        if term is not None and (new.certificate is None or new.certificate.public != term.public):
            return Contradiction(
                TERM, f"not signed in term {term.number}, which holds this log", term.note
            )
        frontier = Frontier.from_peaks(size, self.log.peaks)
        old_root = frontier.root()
        fresh = tx.logs.hashes(self.log.id, size, checkpoint.size)
        if len(fresh) != checkpoint.size - size:
            raise leaves_missing(self.origin, size, checkpoint.size)
        frontier.extend(fresh)
        if frontier.size != checkpoint.size or frontier.root() != checkpoint.root:
            return Contradiction(
                "fork" if checkpoint.size == size else "root",
                f"its root is not that of the {checkpoint.size} leaves that were uploaded",
            )
        if fault := _unproven(size, old_root, new):
            return fault
        return replace(
            self, log=replace(self.log, witnessed_size=frontier.size, peaks=frontier.peaks)
        )

    def current(self, tx: Tx) -> Subject:
        """See `Subject.current`."""
        # What was cosigned last is what the next epoch links: nothing comes after that.
        check_epoch(tx, self.log.key, self.log.epoch)
        log = tx.logs.get(self.log.key, self.log.epoch)
        assert log is not None, "logs are never deleted"
        return replace(self, log=log)

    def persist(self, tx: Tx, note: bytes, cosigned_at: int) -> None:
        """See `Subject.persist`."""
        tx.logs.set_witnessed(replace(self.log, witnessed_at=cosigned_at, checkpoint=note))

    def keep(self, tx: Tx, new: Submitted, found: Contradiction, at: int) -> None:
        """See `Subject.keep`."""
        log = self.log
        for note in (new.note, found.other):
            if note:
                evidence = Evidence(
                    log.key, log.epoch, new.checkpoint.size, found.kind, at, found.detail, note
                )
                tx.logs.insert_evidence(evidence)


@dataclass(frozen=True, slots=True)
class OutsideSubject:
    """Somebody else's log: the consistency proof alone decides."""

    log: OutsideLog
    keys: Sequence[VerifyKey]
    extensions: bool = True

    @property
    def origin(self) -> str:
        """See `Subject.origin`."""
        return self.log.origin

    @property
    def size(self) -> int:
        """See `Subject.size`."""
        return self.log.size

    @property
    def checkpoint(self) -> bytes:
        """See `Subject.checkpoint`."""
        return self.log.checkpoint

    @property
    def cosigned_at(self) -> int:
        """See `Subject.cosigned_at`."""
        return self.log.cosigned_at

    def check_held(self, size: int) -> None:
        """None of its leaves is here."""

    def judge(self, tx: Tx, new: Submitted) -> Contradiction | Subject:
        """The proof from what was cosigned; of one size there is one root."""
        old, checkpoint = self.log, new.checkpoint
        if checkpoint.size == old.size and checkpoint.root != (old.root or EMPTY_ROOT):
            return Contradiction(
                "fork" if old.checkpoint else PROOF,  # there is no other word to hold against it
                f"its root is not that of the {old.size} leaves that were cosigned",
            )
        if fault := _unproven(old.size, old.root or EMPTY_ROOT, new):
            return fault
        return replace(self, log=replace(old, size=checkpoint.size, root=checkpoint.root))

    def current(self, tx: Tx) -> Subject:
        """See `Subject.current`."""
        return replace(self, log=tx.witnessing.log(self.origin) or OutsideLog(self.origin))

    def persist(self, tx: Tx, note: bytes, cosigned_at: int) -> None:
        """See `Subject.persist`."""
        fork = (tx.witnessing.log(self.origin) or self.log).fork
        log = replace(self.log, checkpoint=note, cosigned_at=cosigned_at, fork=fork)
        tx.witnessing.put_log(log)

    def keep(self, tx: Tx, new: Submitted, found: Contradiction, at: int) -> None:
        """A fork once, with both notes: one proves it for ever, and more would fill the disk."""
        known = tx.witnessing.log(self.origin)
        if found.kind == "fork" and known is not None and known.fork is None:
            tx.witnessing.put_log(replace(known, fork=(self.log.checkpoint, new.note)))


def _unproven(old_size: int, old_root: bytes, new: Submitted) -> Contradiction | None:
    checkpoint = new.checkpoint
    try:
        verify_consistency(old_size, old_root, checkpoint.size, checkpoint.root, new.proof)
    except ProofError as error:
        return Contradiction(PROOF, f"the consistency proof fails: {error.message}")
    return None
