"""The operators' log: every act of an operator is a leaf, chained and signed like an agent's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exclave_coordinator.audit.chain import OwnLog
from exclave_coordinator.ports import Clock, Tx
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import LeafType
from exclave_protocol.note import SigningKey

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


class OperatorLog(OwnLog):
    """Acts of operators, and what the coordinator itself did with the same weight."""

    def __init__(self, key: SigningKey, version: str, *, clock: Clock) -> None:
        """`key` is named after the log's origin."""
        super().__init__(key, lambda tx: tx.operators, {"version": version}, clock=clock)

    def append(self, tx: Tx, act: Act, outcome: str, code: str = "") -> int:
        """Record an act; returns its seq. Raises: StorageError."""
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
        return self.add(tx, LeafType.OPERATOR, body)


def _ascii(value: str) -> str:
    """Free text kept short and harmless in a terminal."""
    return "".join(c if c.isprintable() else " " for c in value[:500])
