"""An audit log and a coordinator in memory, which check what they are given as the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.audit.chain import Chain, Prepared, prepare
from exclave_agent.errors import AuditDiverged, LinkError, StorageError
from exclave_agent.ports import Appended, AuditHead, Clock, LeafDraft, Rng, TermClaim
from exclave_protocol.checkpoint import CosignerKey, cosign, open_signed
from exclave_protocol.errors import ProofError, ProtocolError
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, check_follows, decode_leaf
from exclave_protocol.note import TermKey, VerifyKey, add_signature, split_note
from exclave_protocol.term import TermCertificate, opens
from exclave_protocol.tree import MemoryTree, leaf_hash, verify_consistency
from exclave_protocol.wire import MAX_BATCH_BYTES, MAX_BATCH_LEAVES

from .clock import FakeClock, SeededRng
from .storage import FakeLedger
from .terms import term_key

ORIGIN = "example.test/acme/edge-1/e1"


def log_private(seed: bytes = b"a" * 32) -> Ed25519PrivateKey:
    """The private half of a test agent's log key, the same on every run."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def signing_key(origin: str = ORIGIN, seed: bytes = b"a" * 32, term: int = 1) -> TermKey:
    """The key of a term of a test agent's log, the same on every run."""
    return term_key(origin, log_private(seed), term)


def witness_key(name: str = "example.test/witness", seed: bytes = b"w" * 32) -> CosignerKey:
    """The witness key of a test coordinator."""
    return CosignerKey(name, Ed25519PrivateKey.from_private_bytes(seed))


class FakeAuditLog:
    """An AuditLog in a list.

    `drafts`: what was asked to be recorded, in order; `leaves`: the exact bytes. Set
    `failure` to have appends refused (nothing is recorded then). Clear `gate` to hold
    every append back until it is set again: durable, but not before. `ledger` holds what rode
    on the drafts.
    """

    def __init__(
        self, origin: str = ORIGIN, *, clock: Clock | None = None, rng: Rng | None = None
    ) -> None:
        self._chain = Chain(origin, epoch=1)
        self._clock = clock or FakeClock()
        self._rng = rng or SeededRng()
        self.drafts: list[LeafDraft] = []
        self.leaves: list[bytes] = []
        self.prepared: list[Prepared] = []
        self.ledger = FakeLedger()
        self.failure: StorageError | None = None
        self.fail_on: Callable[[LeafDraft], StorageError | None] = lambda draft: None
        self.gate = asyncio.Event()
        self.gate.set()
        genesis = LeafDraft("GENESIS", {"software": "test"})
        self._record(genesis, prepare(genesis, time_ns=self._clock.now_ns(), rng=self._rng))
        self.drafts.clear()

    async def append(self, draft: LeafDraft) -> Appended:
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        await asyncio.sleep(0)
        await self.gate.wait()
        failure = self.failure or self.fail_on(draft)
        if failure is not None:
            raise failure
        return self._record(draft, prepared)

    def _record(self, draft: LeafDraft, prepared: Prepared) -> Appended:
        sealed = self._chain.seal(prepared)
        self.drafts.append(draft)
        self.leaves.append(sealed.data)
        self.prepared.append(prepared)
        self.ledger.add(prepared.ledger)
        return Appended(self._chain.epoch, sealed.seq, sealed.hash)

    def of_type(self, name: str) -> list[Leaf]:
        """The recorded leaves of one type, decoded."""
        return [leaf for leaf in map(decode_leaf, self.leaves) if leaf.type == LeafType(name)]


class FakeAuditSink:
    """A coordinator's audit service: checks prev, seq, proofs and signatures, then cosigns.

    Knobs: `failure` refuses every call; `fail_next` refuses that many calls and recovers;
    `head_lie` replaces the answer of `head`; `cosigner` may be swapped for a foreign key;
    `size_lie` is added to the size that `append` reports.
    """

    def __init__(self, agent: VerifyKey, *, cosigner: CosignerKey | None = None) -> None:
        self.term: TermCertificate | None = None
        self.commitment = b""
        self.term_note = b""
        self.agent = agent
        self.cosigner = cosigner or witness_key()
        self.leaves: list[bytes] = []
        self.tree = MemoryTree()
        self.notes: list[bytes] = []
        self.witnessed_size = 0
        self.calls: list[str] = []
        self.failure: LinkError | None = None
        self.fail_next = 0
        self.head_lie: AuditHead | None = None
        self.size_lie = 0
        self.epoch_open = 1
        self.proof = b""

    def restore(self, size: int, head: AuditHead) -> None:
        """Go back to a state of before, as a coordinator restored from a backup does."""
        self.leaves = self.leaves[:size]
        self.tree = MemoryTree(map(leaf_hash, self.leaves))
        self.notes = [head.checkpoint] if head.checkpoint else []
        self.witnessed_size = head.witnessed_size

    async def head(self, epoch: int) -> AuditHead:
        await self._called("head")
        if self.head_lie is not None:
            return self.head_lie
        note = self.notes[-1] if self.notes else b""
        number = self.term.term if self.term is not None else 0
        return AuditHead(len(self.leaves), self.witnessed_size, note, self.epoch_open, number)

    async def recorded(self, epoch: int) -> bytes:
        await self._called("recorded")
        return self.proof

    async def begin_term(self, claim: TermClaim) -> bytes:
        await self._called("begin_term")
        if claim.epoch > self.epoch_open:
            raise LinkError("not opened", code="epoch_not_open")
        try:
            opened = open_signed(claim.note, self.agent)
        except ProtocolError as error:
            raise LinkError(error.message, code="term_denied") from error
        if claim.old_size != self.witnessed_size:
            raise LinkError("old size is stale", code="term_stale")
        new, certificate = opened.checkpoint, opened.certificate
        assert certificate is not None
        if self.term is not None and self.term != certificate:
            follows = any(opens(nonce, self.commitment) for nonce in claim.nonces)
            if certificate.term <= self.term.term or not follows:
                raise self._fenced()
        try:
            old_root = self.tree.root(claim.old_size)
            verify_consistency(claim.old_size, old_root, new.size, new.root, claim.proof)
            if new.size <= len(self.leaves) and new.root != self.tree.root(new.size):
                raise ProofError("not over what was uploaded")
        except ProofError as error:
            raise LinkError(error.message, code="term_inconsistent") from error
        self.term, self.commitment, self.term_note = certificate, claim.commitment, claim.note
        return b"token"

    def _fenced(self) -> AuditDiverged:
        text = "another process holds the log"
        return AuditDiverged(text, code="fenced", evidence=self.term_note, note=self.term_note)

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int
    ) -> int:
        await self._called("append")
        if self.term is not None and self.term.term != term:
            raise self._fenced()
        if len(leaves) > MAX_BATCH_LEAVES or sum(map(len, leaves)) > MAX_BATCH_BYTES:
            raise LinkError("batch too large", code="batch_too_large")
        if first_seq > len(self.leaves):
            raise LinkError("gap before the first leaf", code="gap")
        for seq, data in enumerate(leaves, first_seq):
            if seq < len(self.leaves):
                if self.leaves[seq] != data:
                    raise LinkError(f"another leaf is stored at seq {seq}", code="leaf_conflict")
                continue
            prev = leaf_hash(self.leaves[-1]) if self.leaves else NO_PREV
            try:
                leaf = decode_leaf(data)
                check_follows(leaf, log=self.agent.name, epoch=epoch, seq=seq, prev=prev)
            except ProtocolError as error:
                raise LinkError(error.message, code="leaf_invalid") from error
            self.leaves.append(data)
            self.tree.append(leaf_hash(data))
        return len(self.leaves) + self.size_lie

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        await self._called("witness")
        if old_size != self.witnessed_size:
            raise LinkError("old size is stale", code="witness_stale")
        try:
            opened = open_signed(checkpoint, self.agent)
            new = opened.checkpoint
        except ProtocolError as error:
            raise LinkError(error.message, code="witness_denied") from error
        if self.term is not None and opened.certificate != self.term:
            raise self._fenced()
        if new.size > len(self.leaves):
            raise LinkError("leaves missing", code="witness_missing_leaves")
        try:
            verify_consistency(old_size, self.tree.root(old_size), new.size, new.root, proof)
        except ProofError as error:
            raise LinkError(error.message, code="witness_inconsistent") from error
        if new.root != self.tree.root(new.size):
            raise LinkError("root differs from the leaves", code="witness_inconsistent")
        text, _ = split_note(checkpoint)
        line = cosign(text, self.cosigner, 1_900_000_000)
        self.witnessed_size = new.size
        self.notes.append(add_signature(checkpoint, line))
        return line

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if self.fail_next > 0:
            self.fail_next -= 1
            raise LinkError("the coordinator cannot be reached", code="unreachable")
