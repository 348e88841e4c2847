"""A log of the coordinator's own: chained like an agent's, signed by the operators' log key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator.errors import StorageError
from exclave_coordinator.ports import Chain, ChainState, Clock, StoredLeaf, Tx
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.errors import ProofError
from exclave_protocol.leaf import Leaf, LeafType, encode_leaf
from exclave_protocol.note import SigningKey
from exclave_protocol.proof import Proof, make_proof
from exclave_protocol.tree import Frontier, leaf_hash, node_hash
from exclave_protocol.witness import proof_between

EPOCH = 1
_BLOCK = 10
"""Level up to which a subtree is made of its leaves at once; above, of subtrees that are kept."""
_PAGE = 65_536
"""Leaf hashes read at once (2 MiB)."""


def leaves_missing(origin: str, begin: int, end: int) -> StorageError:
    """Our own database is not whole: nobody else is to blame, and nothing is signed over it."""
    return StorageError(
        f"leaves of {origin} from {begin} to {end} are missing in the coordinator's database: "
        "restore it from a backup",
        code="leaves_lost",
    )


@dataclass(frozen=True, slots=True)
class Head:
    """A signed head of an own log, and how it extends an older one."""

    state: ChainState
    note: bytes
    proof: tuple[bytes, ...]


class OwnLog:
    """Appends within the caller's transaction, so that act and record share one fate."""

    def __init__(
        self,
        key: SigningKey,
        table: Callable[[Tx], Chain],
        genesis: Mapping[str, JsonValue],
        *,
        clock: Clock,
    ) -> None:
        """`key` is named after the log's origin; `genesis`: what seq 0 says besides the key."""
        self._key = key
        self._table = table
        self._genesis = genesis
        self._clock = clock
        self._nodes: dict[tuple[int, int], bytes] = {}
        """Hashes of complete subtrees of 1,024 leaves and more, by level and index."""

    @property
    def origin(self) -> str:
        """Checkpoint origin of the log."""
        return self._key.name

    @property
    def vkey(self) -> str:
        """Verifier key of its checkpoints."""
        return self._key.vkey

    @property
    def private(self) -> Ed25519PrivateKey:
        """What signs it, for what the coordinator stands for besides."""
        return self._key.private

    def table(self, tx: Tx) -> Chain:
        """Where its leaves are."""
        return self._table(tx)

    def add(self, tx: Tx, kind: LeafType, body: Mapping[str, JsonValue]) -> int:
        """Record something, after a GENESIS where there is none; returns its seq.

        Raises: StorageError.
        """
        chain = self._table(tx)
        state = chain.state()
        if state.size == 0:
            opening: dict[str, JsonValue] = {"audit_vkey": self._key.vkey, **self._genesis}
            state = self._next(chain, state, LeafType.GENESIS, opening)
        return self._next(chain, state, kind, body).size - 1

    def checkpoint(self, state: ChainState) -> bytes:
        """The log's head as a signed note; empty while nothing is recorded."""
        if state.size == 0:
            return b""
        root = Frontier.from_peaks(state.size, state.peaks).root()
        return sign_checkpoint(Checkpoint(self.origin, state.size, root), self._key)

    def head_after(self, tx: Tx, known: Frontier, size: int) -> Head:
        """The head now, with the proof that it extends the first `size` leaves.

        `known` is the frontier at that size, or at a smaller one: what lies between is read.
        Raises: ProofError when the log has fewer leaves, or `known` is of more; StorageError when
        leaves that it has are not in the database.
        """
        chain = self._table(tx)
        state = chain.state()
        if not known.size <= size <= state.size:
            raise ProofError(f"no proof from size {size} to size {state.size}")
        old = known.copy()
        while old.size < size:
            old.extend(self._hashes(chain, old.size, min(size, old.size + _PAGE)))
        proof: list[bytes] = []
        if 0 < size < state.size:
            proof = proof_between(old, state.size, self._hashes(chain, size, state.size))
        return Head(state, self.checkpoint(state), tuple(proof))

    def prove(self, tx: Tx, seq: int, note: bytes, size: int) -> Proof:
        """That the leaf `seq` is in the tree of `size` leaves that `note` signs.

        Complete subtrees never change, so large ones are made once. Raises: StorageError.
        """
        chain, nodes = self._table(tx), self._nodes

        def node(level: int, index: int) -> bytes:
            if (level, index) in nodes:
                return nodes[level, index]
            if level > _BLOCK:
                made = node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
            else:
                part = Frontier()
                part.extend(self._hashes(chain, index << level, (index + 1) << level))
                made = part.root()
            if level >= _BLOCK:
                nodes[level, index] = made
            return made

        for leaf in chain.leaves(seq, seq + 1):
            return make_proof(leaf.data, seq, note, size, node)
        raise leaves_missing(self.origin, seq, seq + 1)

    def _hashes(self, chain: Chain, begin: int, end: int) -> Sequence[bytes]:
        found = chain.hashes(begin, end)
        if len(found) != end - begin:
            raise leaves_missing(self.origin, begin, end)
        return found

    def _next(
        self, chain: Chain, state: ChainState, kind: LeafType, body: Mapping[str, JsonValue]
    ) -> ChainState:
        now = self._clock.now_ns()
        leaf = Leaf(self.origin, EPOCH, state.size, state.head, kind, now, body)
        data = encode_leaf(leaf)
        digest = leaf_hash(data)
        frontier = Frontier.from_peaks(state.size, state.peaks)
        frontier.append(digest)
        after = ChainState(frontier.size, digest, frontier.peaks)
        chain.append(StoredLeaf(state.size, digest, now, data), after)
        return after
