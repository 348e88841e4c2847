"""The leaves that no decision writes: births, boots, changes, signs of life, incidents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from exclave_agent.ports import LeafDraft
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import LeafType

Body = dict[str, JsonValue]


def genesis(*, agent: str, vkey: str, version: str, prev_epoch: str | None = None) -> LeafDraft:
    """Seq 0: `agent` is the SPIFFE ID, `vkey` signs this log's checkpoints."""
    body: Body = {"agent": agent, "audit_vkey": vkey, "version": version}
    if prev_epoch is not None:
        body["prev_epoch"] = prev_epoch
    return LeafDraft(LeafType.GENESIS, body)


def boot(*, boot_id: str, version: str, runtimes: Sequence[str]) -> LeafDraft:
    """The agent's process has started."""
    return LeafDraft(
        LeafType.BOOT, {"boot_id": boot_id, "version": version, "runtimes": list(runtimes)}
    )


def heartbeat(counts: Mapping[str, int]) -> LeafDraft:
    """A sign of life, so that silence is a gap that can be seen."""
    return LeafDraft(LeafType.HEARTBEAT, {"counts": {k: str(v) for k, v in counts.items()}})


def policy_change(
    *, from_digest: str | None, to_digest: str, release: str, generation: int
) -> LeafDraft:
    """Another policy decides from now on. Digests are SHA-256 hex."""
    return LeafDraft(
        LeafType.POLICY_CHANGE,
        {
            "from": from_digest,
            "to": to_digest,
            "release": release,
            "generation": str(generation),
        },
    )


def model_change(
    loaded: Sequence[Mapping[str, str]], *, release: str, generation: int
) -> LeafDraft:
    """Other models answer from now on; each has name, digest and runtime."""
    models: list[JsonValue] = [
        {"name": m["name"], "digest": m["digest"], "runtime": m["runtime"]} for m in loaded
    ]
    return LeafDraft(
        LeafType.MODEL_CHANGE,
        {"loaded": models, "release": release, "generation": str(generation)},
    )


def retained(name: str, days: int, seqs: Sequence[int]) -> LeafDraft:
    """The values of these leaves were destroyed: the days of their class are over."""
    body: Body = {
        "reason": "retention",
        "class": name,
        "days": days,
        "first": str(min(seqs)),
        "last": str(max(seqs)),
        "leaves": str(len(seqs)),
    }
    return LeafDraft(LeafType.ERASURE, body)


def erased(leaves: int, span: tuple[int, int] | None, answers: int) -> LeafDraft:
    """The key of a subject was destroyed, and with it the values of these leaves. Nothing says
    whose: that would outlast what was erased."""
    body: Body = {"reason": "subject", "leaves": str(leaves), "answers": str(answers)}
    if span is not None:
        body |= {"first": str(span[0]), "last": str(span[1])}
    return LeafDraft(LeafType.ERASURE, body)


def hold(name: str, reference: str, *, stands: bool, subject: str | None) -> LeafDraft:
    """A legal hold was set (`stands`) or lifted: values stay that would have ended."""
    body: Body = {
        "what": "legal_hold",
        "hold": name,
        "reference": reference,
        "stands": stands,
        "of": "all" if subject is None else "subject",
    }
    private: dict[str, JsonValue] = {} if subject is None else {"subject": subject}
    return LeafDraft(LeafType.OVERRIDE, body, private, subject or "")


def incident(code: str, detail: str, *, evidence: bytes = b"") -> LeafDraft:
    """Something that an auditor must know. `detail` is metadata, never a value of the tenant's."""
    body: Body = {"code": code, "detail": detail}
    if evidence:
        body["evidence"] = hashlib.sha256(evidence).hexdigest()
    return LeafDraft(LeafType.INCIDENT, body)


def unknown_result(decision: str, intent: int) -> LeafDraft:
    """Closes an INTENT whose process died: nobody knows whether an answer was computed.

    None was released: that needs a RESULT on disk first.
    """
    return LeafDraft(
        LeafType.RESULT,
        {
            "decision": decision,
            "intent": str(intent),
            "outcome": "unknown",
            "reason": "agent_stopped",
        },
    )


def disclosure(*, seq: int, digest: str) -> LeafDraft:
    """One private field of one record was disclosed; `digest` is its commitment."""
    return LeafDraft(LeafType.DISCLOSURE, {"record": str(seq), "digest": digest})
