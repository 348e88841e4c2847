"""Outside logs and outside witnesses for tests: honest by default, lying where a test says so."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator.errors import Denied, Inconsistent, Invalid, NotFound, Stale, Unavailable
from exclave_protocol.checkpoint import Checkpoint, CosignerKey, cosign, sign_checkpoint
from exclave_protocol.errors import NoteError, ProofError
from exclave_protocol.note import SigningKey, VerifyKey, open_note, split_note
from exclave_protocol.tree import (
    EMPTY_ROOT,
    MemoryTree,
    consistency_proof,
    leaf_hash,
    verify_consistency,
)
from exclave_protocol.witness import AddCheckpoint


def key_of(seed: str) -> Ed25519PrivateKey:
    """The same key for the same words."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


class OutsideTree:
    """Somebody else's log: any bytes are leaves."""

    def __init__(self, origin: str = "log.example/one", seed: str = "", size: int = 0) -> None:
        self.key = SigningKey(origin, key_of(seed or origin))
        self.tree = MemoryTree()
        self.add(size)

    @property
    def origin(self) -> str:
        """Its name."""
        return self.key.name

    @property
    def vkey(self) -> str:
        """What a witness is configured with."""
        return self.key.vkey

    def add(self, count: int, story: str = "") -> OutsideTree:
        """So many leaves more."""
        for _ in range(count):
            self.tree.append(leaf_hash(f"{self.tree.size}{story}".encode()))
        return self

    def note(self, size: int | None = None, *, root: bytes | None = None) -> bytes:
        """A signed checkpoint; `root` to lie."""
        at = self.tree.size if size is None else size
        head = Checkpoint(self.origin, at, root or self.tree.root(at))
        return sign_checkpoint(head, self.key)

    def proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Consistency proof."""
        return tuple(consistency_proof(old, self.tree.size if new is None else new, self.tree.node))

    def request(self, old: int, new: int | None = None) -> AddCheckpoint:
        """What an honest log sends."""
        return AddCheckpoint(old, self.proof(old, new), self.note(new))


class SilentTold:
    """`submit.Told` that nobody listens to."""

    def outcome(self, witness: str, outcome: str) -> None: ...
    def lag(self, log: str, witness: str, leaves: int, cosigned_at: int) -> None: ...


@dataclass
class FakeWitness:
    """`witness_ports.OutsideWitness` in memory: the rules of tlog-witness, and every fault."""

    logs: Sequence[str] = ()
    """Vkeys of the logs that it cosigns."""
    name: str = "witness.example/w1"
    now: int = 1_700_000_000
    fault: Exception | None = None
    """Raised by every request."""
    answer: bytes | None = None
    """Given to every request that would be granted, in place of the cosignature."""
    lose_answers: bool = False
    """Cosign, and then fail as if the connection broke."""
    asked: list[AddCheckpoint] = field(default_factory=list)
    heads: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Size and root by origin."""

    @property
    def cosigner(self) -> CosignerKey:
        """Its private key."""
        return CosignerKey(self.name, key_of(self.name))

    @property
    def key(self) -> VerifyKey:
        """See `witness_ports.OutsideWitness`."""
        return self.cosigner.verify_key

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
        """See `witness_ports.OutsideWitness`."""
        self.asked.append(AddCheckpoint(old_size, tuple(proof), note))
        if self.fault is not None:
            raise self.fault
        try:
            text = split_note(note)[0]
            head = Checkpoint.parse(text)
        except NoteError as error:
            raise Invalid("note") from error
        keys = [key for key in map(VerifyKey.parse, self.logs) if key.name == head.origin]
        if not keys:
            raise NotFound("log")
        try:
            open_note(note, keys)
        except NoteError as error:
            raise Denied("key", code="signature") from error
        self._advance(head, old_size, proof)
        if self.lose_answers:
            raise Unavailable("the answer was lost")
        return self.answer if self.answer is not None else cosign(text, self.cosigner, self.now)

    def _advance(self, head: Checkpoint, old_size: int, proof: Sequence[bytes]) -> None:
        size, root = self.heads.get(head.origin, (0, EMPTY_ROOT))
        if old_size > head.size:
            raise Invalid("old")
        if old_size != size:
            raise Stale("size", size=size)
        try:
            verify_consistency(size, root, head.size, head.root, proof)
        except ProofError as error:
            raise Inconsistent("proof") from error
        self.heads[head.origin] = (head.size, head.root)
