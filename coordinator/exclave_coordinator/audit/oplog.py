"""The operators' log: every act of an operator is a leaf, chained and signed like an agent's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exclave_coordinator.ports import ChainState, Clock, StoredLeaf, Tx
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint, operator_origin, sign_checkpoint
from exclave_protocol.leaf import Leaf, LeafType, encode_leaf
from exclave_protocol.note import SigningKey
from exclave_protocol.tree import Frontier, leaf_hash

EPOCH = 1
OK = "ok"
DENIED = "denied"
REFUSED = "refused"


@dataclass(slots=True)
class Act:
    """What an operator did or tried; `details` may grow until it is recorded."""

    operator: str
    """SPIFFE ID."""
    role: str
    action: str
    """RPC name, e.g. "BanAgent"."""
    target: str
    """What it was done to, e.g. "tenant/acme/agent/a1"."""
    details: Mapping[str, str] = field(default_factory=dict)


class OperatorLog:
    """Appends within the caller's transaction, so that act and record share one fate."""

    def __init__(self, key: SigningKey, trust_domain: str, version: str, *, clock: Clock) -> None:
        """`key` is named after the log's origin."""
        self._key = key
        self._origin = operator_origin(trust_domain, EPOCH)
        self._version = version
        self._clock = clock

    @property
    def origin(self) -> str:
        """Checkpoint origin of the log."""
        return self._origin

    @property
    def vkey(self) -> str:
        """Verifier key of its checkpoints."""
        return self._key.vkey

    def append(self, tx: Tx, act: Act, outcome: str, code: str = "") -> int:
        """Record an act; returns its seq. Raises: StorageError."""
        state = tx.operators.state()
        if state.size == 0:
            genesis: dict[str, JsonValue] = {
                "audit_vkey": self._key.vkey,
                "version": self._version,
            }
            state = self._add(tx, state, LeafType.GENESIS, genesis)
        body: dict[str, JsonValue] = {
            "operator": act.operator,
            "role": act.role,
            "action": act.action,
            "target": act.target,
            "outcome": outcome,
        }
        if code:
            body["code"] = code
        if act.details:
            body["details"] = {key: _ascii(value) for key, value in act.details.items()}
        return self._add(tx, state, LeafType.OPERATOR, body).size - 1

    def checkpoint(self, state: ChainState) -> bytes:
        """The log's head as a signed note; empty while nothing is recorded."""
        if state.size == 0:
            return b""
        root = Frontier.from_peaks(state.size, state.peaks).root()
        return sign_checkpoint(Checkpoint(self._origin, state.size, root), self._key)

    def _add(
        self, tx: Tx, state: ChainState, kind: LeafType, body: Mapping[str, JsonValue]
    ) -> ChainState:
        now = self._clock.now_ns()
        leaf = Leaf(self._origin, EPOCH, state.size, state.head, kind, now, body)
        data = encode_leaf(leaf)
        digest = leaf_hash(data)
        frontier = Frontier.from_peaks(state.size, state.peaks)
        frontier.append(digest)
        after = ChainState(frontier.size, digest, frontier.peaks)
        tx.operators.append(StoredLeaf(state.size, digest, now, data), after)
        return after


def _ascii(value: str) -> str:
    """Free text kept short and harmless in a terminal."""
    return "".join(c if c.isprintable() else " " for c in value[:500])
