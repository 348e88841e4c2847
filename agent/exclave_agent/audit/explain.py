"""Explains a recorded decision, and lists recorded decisions for a replay: from the log alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exclave_agent.errors import BadRequest, StorageError
from exclave_policy.recorded import Recorded
from exclave_policy.recorded import read as read_recorded
from exclave_policy.workbench.explain import RuleSaid, as_json, explain_recorded, told
from exclave_policy.workbench.replay import Past
from exclave_protocol.canonical import JsonValue
from exclave_protocol.errors import ProtocolError
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf

from .disclose import find, show
from .store import LogReader

_OF_DECISIONS = (LeafType.INTENT, LeafType.RESULT)
_ALLOWED = ("answered",)
_DENIED = "denied"
_BY_A_GUARD = "input_refused"
"""The reason of a denial that the policy itself had allowed."""


@dataclass(frozen=True, slots=True)
class Why:
    """One decision, explained."""

    decision: str
    outcome: str
    """As in the RESULT; "open": there is none yet."""
    reason: str
    policy: Mapping[str, Any]
    """As in the leaf: digest, rule, matched, would."""
    grants: tuple[Mapping[str, Any], ...]
    attempts: tuple[Mapping[str, Any], ...]
    guards: Mapping[str, Any]
    """As in the RESULT: what validators found; empty: none had anything to say."""
    approvals: tuple[str, ...]
    """What the answer waits for."""
    rules: tuple[RuleSaid, ...] | None
    """None: the values that it takes were erased, or not kept."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "decision": self.decision,
            "outcome": self.outcome,
            "reason": self.reason,
            "policy": dict(self.policy),
            "grants": [dict(each) for each in self.grants],
            "attempts": [dict(each) for each in self.attempts],
            "guards": dict(self.guards),
            "approvals": list(self.approvals),
            "rules": None if self.rules is None else as_json(self.rules),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        reason = f": {self.reason}" if self.reason else ""
        yield f"decision {self.decision}: {self.outcome}{reason}"
        yield f"policy {self.policy.get('digest', '')}, rule {self.policy.get('rule') or 'none'}"
        if self.rules is None:
            matched = ", ".join(self.policy.get("matched") or ()) or "not recorded"
            yield f"rules that matched: {matched} (what made them match is erased, or not kept)"
        else:
            yield from told(self.rules)
        would = self.policy.get("would")
        if isinstance(would, dict):
            word = "allowed" if would.get("allowed") else "denied"
            yield f"with audited rules enforced: {word} by {would.get('rule')}"
        for target in self.grants:
            for each in target.get("grants", ()):
                name = each.get("name") or "a name of the caller's"
                yield f"{target.get('model')}: {each.get('action')} {name}, by {each.get('rule')}"
        for each in self.attempts:
            yield f"{each.get('model')}: {each.get('outcome')}"
        for each in self.guards.get("failed") or ():
            about = each.get("model") or "the input"
            watched = ", watched only" if each.get("mode") == "audit" else ""
            yield (
                f"{about}: validator {each.get('validator')} failed{watched}: "
                f"{each.get('check')}: {each.get('reason')}"
            )
        for name in self.guards.get("passed") or ():
            yield f"validator {name} passed"
        if escalated := self.guards.get("escalated"):
            yield f"handed to a person by validator {escalated}"
        for name in self.approvals:
            yield f"waits for approval {name}"


def explain(reader: LogReader, reference: str, *, full: bool = False) -> Why:
    """Why a decision, named by its id or by a record of it, is what it is. `full`: with the words
    of callers.

    Raises: BadRequest (no such record, or one of no decision), StorageError.
    """
    seqs = find(reader, reference)
    first = show(reader, seqs[0]).leaf
    decision = first.body.get("decision")
    if first.type not in _OF_DECISIONS or not isinstance(decision, str):
        raise BadRequest(
            f"record {seqs[0]} is of no decision: name an INTENT or a RESULT", param="record"
        )
    bodies: dict[LeafType, Mapping[str, Any]] = {}
    kept: Recorded | None = None
    for seq in reader.by_decision(decision):
        shown = show(reader, seq)
        if shown.leaf.type in _OF_DECISIONS:
            bodies[shown.leaf.type] = shown.leaf.body
            kept = kept or read_recorded(shown.fields.get("policy"))
    intent = bodies.get(LeafType.INTENT, {})
    result = bodies.get(LeafType.RESULT, {})
    return Why(
        decision,
        str(result.get("outcome", "open")),
        str(result.get("reason", "")),
        _mapping(result.get("policy") or intent.get("policy")),
        _mappings(intent.get("grants")),
        _mappings(result.get("attempts")),
        _mapping(result.get("guards")),
        tuple(map(str, result.get("approvals") or ())),
        None if kept is None else explain_recorded(kept, full=full),
    )


def past(reader: LogReader, last: int) -> Iterator[Past]:
    """The newest `last` decisions that the policy allowed or denied, oldest first; those that
    something else ended (a full queue, a disk) say nothing of the policy.

    Raises: StorageError.
    """
    for seq in _newest(reader, last):
        leaf = show(reader, seq).leaf
        by_a_guard = leaf.body.get("reason") == _BY_A_GUARD
        allowed = by_a_guard or leaf.body.get("outcome") != _DENIED
        rule = _mapping(leaf.body.get("policy")).get("rule")
        yield Past(allowed, str(rule or ""), _kept(reader, seq, leaf))


def _newest(reader: LogReader, last: int) -> list[int]:
    """The seqs of the newest RESULTs with a rule, ascending: one number each is held."""
    found: list[int] = []
    size = reader.size()
    for seq in range(size - 1, -1, -1):
        if len(found) == last:
            break
        stored = reader.leaf(seq)
        if stored is None:
            continue
        try:
            leaf = decode_leaf(stored.data)
        except ProtocolError as error:
            raise StorageError(
                f"record {seq} cannot be read: {error.message}", code="log_altered"
            ) from error
        if leaf.type is LeafType.RESULT and _mapping(leaf.body.get("policy")).get("rule"):
            found.append(seq)
    return found[::-1]


def _kept(reader: LogReader, seq: int, leaf: Leaf) -> Recorded | None:
    """What the INTENT kept; without one, the RESULT."""
    intent = leaf.body.get("intent")
    if isinstance(intent, str) and intent.isascii() and intent.isdigit():
        seq = int(intent)
    return read_recorded(show(reader, seq).fields.get("policy"))


def _mapping(value: JsonValue) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _mappings(value: JsonValue) -> tuple[dict[str, Any], ...]:
    return tuple(map(_mapping, value)) if isinstance(value, list) else ()
