"""The leaves that no decision writes: births, boots, changes, signs of life, incidents."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence

from exclave_agent.ports import LeafDraft
from exclave_protocol.approval import Act, Review
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.disclosure import Disclosure
from exclave_protocol.epoch import PREVIOUS, link
from exclave_protocol.leaf import LeafType, format_time
from exclave_protocol.note import VerifyKey
from exclave_protocol.term import TermCertificate

from .epoch import Epoch

Body = dict[str, JsonValue]


def genesis(*, agent: str, vkey: str, version: str) -> LeafDraft:
    """Seq 0: `agent` is the SPIFFE ID, `vkey` certifies who signs this log's checkpoints."""
    return LeafDraft(LeafType.GENESIS, {"agent": agent, "audit_vkey": vkey, "version": version})


def epoch(before: Epoch) -> LeafDraft:
    """Seq 1 of a log that continues another, which could not go on."""
    head = Checkpoint(before.origin, before.size, before.root)
    return LeafDraft(LeafType.EPOCH, {PREVIOUS: link(head, before.note), "reason": before.reason})


def lost(before: Epoch) -> LeafDraft:
    """What the log before had beyond its last cosigned head: nothing vouches for those records."""
    body: Body = {
        "reason": "epoch",
        "log": before.origin,
        "first": str(before.size),
        "leaves": str(max(before.held - before.size, 0)),
    }
    return LeafDraft(LeafType.GAP, body)


def recovered(before: Epoch) -> LeafDraft:
    """The record goes on in a new epoch."""
    return LeafDraft(
        LeafType.RECOVERY, {"reason": "epoch", "log": before.origin, "why": before.reason}
    )


def silence(since_ns: int, until_ns: int) -> LeafDraft:
    """Between these times nothing was recorded, not even a sign of life."""
    body: Body = {
        "reason": "silence",
        "from": format_time(since_ns),
        "to": format_time(until_ns),
        "seconds": str((until_ns - since_ns) // 10**9),
    }
    return LeafDraft(LeafType.GAP, body)


def storage_back(refused: int, since_ns: int) -> LeafDraft:
    """Records are written again; meanwhile so many were not, and what they were of was refused."""
    body: Body = {
        "reason": "storage",
        "from": format_time(since_ns),
        "refused": str(refused),
    }
    return LeafDraft(LeafType.RECOVERY, body)


def term(certificate: TermCertificate) -> Body:
    """Who signs from now on: the term's number, its key, and the certificate of the log's key."""
    return {
        "term": str(certificate.term),
        "term_vkey": VerifyKey(certificate.origin, certificate.public).vkey,
        "certificate": b64encode(certificate.encode()).decode(),
    }


def boot(
    *, boot_id: str, version: str, runtimes: Sequence[str], certificate: TermCertificate
) -> LeafDraft:
    """The agent's process has started; `boot_id` is random, and tells it from any other."""
    body: Body = {"boot_id": boot_id, "version": version, "runtimes": list(runtimes)}
    return LeafDraft(LeafType.BOOT, body | term(certificate))


def key_rotate(certificate: TermCertificate) -> LeafDraft:
    """The process goes on in a new term; the key of the former one is gone."""
    return LeafDraft(LeafType.KEY_ROTATE, term(certificate))


def heartbeat(counts: Mapping[str, int], every: float) -> LeafDraft:
    """A sign of life, so that silence is a gap that is seen. `every`: seconds until the next."""
    return LeafDraft(
        LeafType.HEARTBEAT,
        {"counts": {k: str(v) for k, v in counts.items()}, "every": str(int(every))},
    )


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


def retained(name: str, days: int, seqs: Sequence[int], *, log: str = "") -> LeafDraft:
    """The values of these leaves were destroyed: the days of their class are over. `log`: whose
    they are, if it is a former epoch's."""
    body: Body = {
        "reason": "retention",
        "class": name,
        "days": days,
        "first": str(min(seqs)),
        "last": str(max(seqs)),
        "leaves": str(len(seqs)),
    }
    if log:
        body["log"] = log
    return LeafDraft(LeafType.ERASURE, body)


def erased(
    leaves: int,
    span: tuple[int, int] | None,
    answers: int,
    former: Mapping[str, int] | None = None,
) -> LeafDraft:
    """The key of a subject was destroyed, and with it the values of these leaves. Nothing says
    whose: that would outlast what was erased. `former`: leaves of former epochs, by origin."""
    body: Body = {"reason": "subject", "leaves": str(leaves), "answers": str(answers)}
    if former:
        body["former"] = {origin: str(count) for origin, count in former.items()}
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


def reviewer(name: str, vkey: str, key: str, roles: Sequence[str], *, stands: bool) -> LeafDraft:
    """Somebody's own key is (`stands`), or is no more, what acts on decisions that wait. `key`: id
    of the API key that goes with it."""
    body: Body = {
        "what": "reviewer",
        "reviewer": name,
        "vkey": vkey,
        "key": key,
        "roles": list(roles),
        "stands": stands,
    }
    return LeafDraft(LeafType.OVERRIDE, body)


def reviewed(
    review: Review, opened: Sequence[Disclosure] = (), subject_of: int | None = None
) -> LeafDraft:
    """A reviewer's act, or that nobody acted in time. `opened`: what the statement commits to."""
    corrects = review.act is Act.CORRECT
    return LeafDraft(
        LeafType.OVERRIDE if corrects else LeafType.APPROVAL,
        review.body(),
        {item.name: item.value for item in opened},
        salts={item.name: item.salt for item in opened},
        subject_of=subject_of,
    )


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
