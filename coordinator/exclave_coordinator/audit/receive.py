"""Take in agents' leaves: each must be canonical and continue the one before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from exclave_coordinator.audit.epochs import check_epoch, check_link, newest_open
from exclave_coordinator.audit.terms import Fence
from exclave_coordinator.errors import BeyondEnd, CoordinatorError, Exists, Invalid, TooMuch
from exclave_coordinator.ports import AgentKey, Clock, Evidence, Log, Store, StoredLeaf, Tx
from exclave_protocol.checkpoint import log_origin
from exclave_protocol.errors import LeafError
from exclave_protocol.leaf import Leaf, check_follows, decode_leaf
from exclave_protocol.tree import leaf_hash
from exclave_protocol.wire import MAX_BATCH_BYTES, MAX_BATCH_LEAVES

MAX_EPOCH = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Checked:
    """A leaf that is canonical and continues its predecessor within the batch."""

    leaf: Leaf
    stored: StoredLeaf


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the coordinator stands with an epoch of an agent's log."""

    log: Log | None
    """None: nothing received."""
    term: int
    """The term that holds it; 0: none was begun."""
    epoch_open: int
    """Newest epoch that may begin, or has."""


class Receiver:
    """Stores leaves exactly once, in order, and keeps what contradicts them."""

    def __init__(
        self, store: Store, trust_domain: str, fence: Fence, *, workers: Executor, clock: Clock
    ) -> None:
        """`workers` decode leaves beside the event loop."""
        self._fence = fence
        self._store = store
        self._domain = trust_domain
        self._workers = workers
        self._clock = clock

    async def head(self, key: AgentKey, epoch: int) -> Standing:
        """Where we stand with an epoch."""

        def job(tx: Tx) -> Standing:
            log = tx.logs.get(key, epoch)
            term = tx.terms.get(log.id) if log is not None else None
            return Standing(log, term.number if term is not None else 0, newest_open(tx, key))

        return await self._store.read(job)

    async def append(
        self,
        key: AgentKey,
        audit_key: bytes,
        epoch: int,
        first_seq: int,
        leaves: Sequence[bytes],
        *,
        term: int = 0,
    ) -> int:
        """Store leaves [first_seq, ...); returns the stored size. Idempotent.

        `term`: of the process that wrote them. Raises: TooMuch (batch), Invalid (leaf, prev, seq),
        BeyondEnd (gap), Exists (conflict: another leaf is stored there; the one received is kept
        as evidence), Fenced (another term holds the log), Precondition ("epoch_not_open").
        """
        if len(leaves) > MAX_BATCH_LEAVES or sum(map(len, leaves)) > MAX_BATCH_BYTES:
            raise TooMuch(
                f"leaves: more than {MAX_BATCH_LEAVES} or {MAX_BATCH_BYTES} bytes in one batch"
            )
        if not 1 <= epoch <= MAX_EPOCH:
            raise Invalid("epoch: must be at least 1")
        origin = log_origin(self._domain, key.tenant, key.name, epoch)
        checked = await asyncio.get_running_loop().run_in_executor(
            self._workers, check_batch, origin, epoch, first_seq, leaves
        )

        def job(tx: Tx) -> int | CoordinatorError:
            check_epoch(tx, key, epoch)
            log = tx.logs.get(key, epoch)
            if log is not None:
                self._fence.check(tx, log, term)
            if first_seq > (log.size if log is not None else 0):
                raise BeyondEnd(
                    f"first_seq: {first_seq} where at most {log.size if log else 0} leaves are "
                    "stored: upload from there",
                    code="gap",
                )
            if not checked:
                return log.size if log is not None else 0
            log = log or tx.logs.create(key, epoch, audit_key)
            conflict = self._conflict(tx, log, checked)
            if conflict is None:
                check_link(tx, log, [item.leaf for item in checked])
            return conflict or _extend(tx, log, checked)

        outcome = await self._store.write(job)
        if isinstance(outcome, CoordinatorError):
            raise outcome
        return outcome

    def _conflict(self, tx: Tx, log: Log, checked: Sequence[Checked]) -> CoordinatorError | None:
        """A refusal that must not roll back: its evidence stays."""
        first = checked[0].stored.seq
        known = tx.logs.hashes(log.id, first, min(log.size, first + len(checked)))
        for have, item in zip(known, checked, strict=False):
            if have == item.stored.hash:
                continue
            seq = item.stored.seq
            detail = f"a leaf with hash {have.hex()} is stored at seq {seq}"
            tx.logs.insert_evidence(
                Evidence(
                    log.key, log.epoch, seq, "leaf", self._clock.now(), detail, item.stored.data
                )
            )
            return Exists(
                f"leaves: another leaf is stored at seq {seq}; the one received is kept as "
                "evidence",
                code="conflict",
            )
        return None


def check_batch(origin: str, epoch: int, first_seq: int, leaves: Sequence[bytes]) -> list[Checked]:
    """Decode a batch and check its inner chain; the first leaf's `prev` is left to `append`.

    Raises: Invalid, naming the seq.
    """
    checked: list[Checked] = []
    prev = b""
    for seq, data in enumerate(leaves, first_seq):
        try:
            leaf = decode_leaf(data)
            check_follows(leaf, log=origin, epoch=epoch, seq=seq, prev=prev or leaf.prev)
        except LeafError as error:
            raise Invalid(f"leaves: seq {seq}: {error.message}", code="leaf") from error
        prev = leaf_hash(data)
        checked.append(Checked(leaf, StoredLeaf(seq, prev, leaf.time_ns, data)))
    return checked


def _extend(tx: Tx, log: Log, checked: Sequence[Checked]) -> int:
    fresh = checked[log.size - checked[0].stored.seq :]
    if not fresh:
        return log.size
    if fresh[0].leaf.prev != log.head:
        raise Invalid(
            f"leaves: seq {log.size}: prev does not continue the leaf before it", code="leaf"
        )
    tx.logs.append(log.id, [item.stored for item in fresh])
    return fresh[-1].stored.seq + 1
