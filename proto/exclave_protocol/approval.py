"""What a reviewer signs of a decision that waits for people, and how the log's leaf says it.

A statement is DSSE by the reviewer's own key over the digest of exactly what was shown; the leaf
that carries it (APPROVAL, or OVERRIDE where the answer was corrected) is docs/audit-format.md
section 9. Pure: nothing here knows what is policy.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .canonical import CanonicalError, JsonValue, decode, encode
from .dsse import Envelope, EnvelopeSignature
from .errors import EvidenceError, LeafError, NoteError, ReleaseError
from .leaf import format_time, parse_time
from .note import ED25519, VerifyKey

STATEMENT_TYPE: Final = "application/vnd.exclave.approval+json"
SCHEMA: Final = "exclave.approval/v1"
SHOWN: Final = "shown"
"""Name of the private field whose value is the text that was shown."""
ANSWER: Final = "answer"
"""Name of the private field that holds a corrected answer."""
HELD: Final = "held"
"""Name of a RESULT's private field: the answer that waits."""
MAX_STATEMENT: Final = 4096
MAX_LISTED: Final = 256
"""Most entries of a list in such a leaf."""

_DECISION = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SEQ = re.compile(r"0|[1-9][0-9]{0,18}")
REVIEWER: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""A reviewer's name, which is that of the reviewer's key."""


class Act(StrEnum):
    """What a reviewer does."""

    APPROVE = "approve"
    """The answer may be given."""
    CORRECT = "correct"
    """Another answer may be given in its place: the reviewer's."""
    REFUSE = "refuse"
    """None may."""
    EXPIRE = "expire"
    """Nobody's act: the time is over. Never signed."""


class Stands(StrEnum):
    """How the decision stands after an act."""

    WAITING = "waiting"
    RELEASED = "released"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Place:
    """A leaf of the same log: its seq and RFC 6962 leaf hash."""

    seq: int
    hash: bytes

    def to_json(self) -> dict[str, JsonValue]:
        """As statements and leaves have it."""
        return {"hash": self.hash.hex(), "seq": str(self.seq)}

    @classmethod
    def from_json(cls, value: JsonValue, what: str) -> Place:
        """Raises: EvidenceError."""
        fields = _fields(value, {"hash", "seq"}, what)
        seq = _text(fields["seq"], _SEQ, f"{what}: seq")
        return cls(int(seq), bytes.fromhex(_text(fields["hash"], _HASH, f"{what}: hash")))


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed."""

    log: str
    """Origin."""
    decision: str
    act: Act
    intent: Place
    result: Place
    shown: str
    """Digest (`disclosure.Disclosure.digest`) of the text that the reviewer was shown."""
    answer: str | None
    """Digest of the answer that may be given; None: none may."""
    reviewer: str
    """The reviewer's vkey."""
    time_ns: int
    """The reviewer's clock."""

    def encode(self) -> bytes:
        """Canonical JSON."""
        return encode(
            {
                "act": str(self.act),
                "answer": self.answer,
                "decision": self.decision,
                "intent": self.intent.to_json(),
                "log": self.log,
                "result": self.result.to_json(),
                "reviewer": self.reviewer,
                "schema": SCHEMA,
                "shown": self.shown,
                "time": format_time(self.time_ns),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Raises: EvidenceError."""
        try:
            value = decode(data, limit=MAX_STATEMENT)
        except CanonicalError as error:
            raise EvidenceError(f"statement: {error.message}") from None
        names = {"act", "answer", "decision", "intent", "log", "result", "reviewer"}
        fields = _fields(value, names | {"schema", "shown", "time"}, "statement")
        if fields["schema"] != SCHEMA:
            raise EvidenceError(f"statement: schema is not {SCHEMA}")
        act = _act(fields["act"])
        answer = fields["answer"]
        if act is Act.EXPIRE or (answer is None) is not (act is Act.REFUSE):
            raise EvidenceError("statement: act and answer do not go together")
        try:
            time_ns = parse_time(_string(fields["time"], "statement: time"))
        except LeafError as error:
            raise EvidenceError(f"statement: {error.message}") from None
        return cls(
            _string(fields["log"], "statement: log"),
            _text(fields["decision"], _DECISION, "statement: decision"),
            act,
            Place.from_json(fields["intent"], "statement: intent"),
            Place.from_json(fields["result"], "statement: result"),
            _text(fields["shown"], _DIGEST, "statement: shown"),
            None if answer is None else _text(answer, _DIGEST, "statement: answer"),
            _string(fields["reviewer"], "statement: reviewer"),
            time_ns,
        )

    def sign(self, key: Ed25519PrivateKey) -> Envelope:
        """By the reviewer's private key."""
        return Envelope.signed(STATEMENT_TYPE, self.encode(), [key])


def reviewer_key(vkey: str) -> VerifyKey:
    """A reviewer's key. Raises: EvidenceError."""
    try:
        key = VerifyKey.parse(vkey)
    except NoteError as error:
        raise EvidenceError(f"reviewer: {error.message}") from None
    if key.kind != ED25519 or REVIEWER.fullmatch(key.name) is None:
        raise EvidenceError(
            "reviewer: not an Ed25519 key (type 0x01) whose name is 1 to 63 of a-z, 0-9 and ._-"
        )
    return key


def open_statement(envelope: Envelope) -> Statement:
    """The statement, once the key that it names is found to have signed it: whose key that is,
    others know. Raises: EvidenceError."""
    statement = Statement.decode(envelope.payload)
    key = Ed25519PublicKey.from_public_bytes(reviewer_key(statement.reviewer).public)
    try:
        envelope.verify(STATEMENT_TYPE, [key])
    except ReleaseError as error:
        raise EvidenceError(f"statement: {error.message}") from None
    if len(envelope.signatures) != 1:
        raise EvidenceError("statement: not one signature")
    return statement


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one document of kind Approval asks for."""

    approval: str
    version: str
    count: int
    separate: bool

    def to_json(self) -> dict[str, JsonValue]:
        """As the leaf has it."""
        return {
            "approval": self.approval,
            "count": self.count,
            "separate": self.separate,
            "version": self.version,
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Requirement:
        """Raises: EvidenceError."""
        fields = _fields(value, {"approval", "count", "separate", "version"}, "requires")
        count, separate = fields["count"], fields["separate"]
        if type(count) is not int or count < 1 or type(separate) is not bool:
            raise EvidenceError("requires: count or separate malformed")
        name = _string(fields["approval"], "requires: approval")
        return cls(name, _string(fields["version"], "requires: version"), count, separate)


def read_requires(value: JsonValue) -> tuple[Requirement, ...]:
    """What a decision waits for, as RESULTs and acts say it; no document twice.

    Raises: EvidenceError.
    """
    found = tuple(Requirement.from_json(each) for each in _list(value, "requires"))
    if len({each.approval for each in found}) != len(found):
        raise EvidenceError("requires: a document stands twice")
    return found


@dataclass(frozen=True, slots=True)
class Review:
    """The body of an APPROVAL, or of an OVERRIDE that corrects."""

    decision: str
    act: Act
    answer: str | None
    stands: Stands
    requires: tuple[Requirement, ...]
    registered: Place | None
    """The OVERRIDE by which the agent's operator made the key a reviewer's; None: nobody acted."""
    counts: tuple[tuple[str, str], ...] = ()
    """(approval, role): for which documents the act counts, and by which role of the reviewer; ""
    as the approval where the decision waits for a person and no document says for whom."""
    beside: tuple[Place, ...] = ()
    """Former acts on the same answer that count together with this one."""
    envelope: Envelope | None = None
    reviewer: str = ""
    """The reviewer's name."""

    def body(self) -> dict[str, JsonValue]:
        """The leaf's body."""
        body: dict[str, JsonValue] = {
            "act": str(self.act),
            "answer": self.answer,
            "beside": [each.to_json() for each in self.beside],
            "counts": [{"approval": name, "role": role} for name, role in self.counts],
            "decision": self.decision,
            "envelope": None if self.envelope is None else _enveloped(self.envelope),
            "registered": None if self.registered is None else self.registered.to_json(),
            "requires": [each.to_json() for each in self.requires],
            "reviewer": self.reviewer or None,
            "stands": str(self.stands),
        }
        return body | ({"what": "answer"} if self.act is Act.CORRECT else {})

    @classmethod
    def of(cls, body: Mapping[str, JsonValue]) -> Review:
        """Read a leaf's body. Raises: EvidenceError."""
        act, answer = _act(body.get("act")), body.get("answer")
        registered, envelope = body.get("registered"), body.get("envelope")
        if (envelope is None) is not (act is Act.EXPIRE):
            raise EvidenceError("envelope: must be there, unless nobody acted")
        theirs = (answer, registered, body.get("reviewer"), body.get("counts"), body.get("beside"))
        if envelope is None and theirs != (None, None, None, [], []):
            raise EvidenceError("nobody acted, and yet it says who")
        try:
            stands = Stands(_string(body.get("stands"), "stands"))
        except ValueError:
            raise EvidenceError("stands: not a word of the format") from None
        counts = []
        for each in _list(body.get("counts"), "counts"):
            fields = _fields(each, {"approval", "role"}, "counts")
            counts.append(
                (_string(fields["approval"], "counts"), _string(fields["role"], "counts"))
            )
        return cls(
            _text(body.get("decision"), _DECISION, "decision"),
            act,
            None if answer is None else _text(answer, _DIGEST, "answer"),
            stands,
            read_requires(body.get("requires")),
            None if registered is None else Place.from_json(registered, "registered"),
            tuple(counts),
            tuple(Place.from_json(e, "beside") for e in _list(body.get("beside"), "beside")),
            None if envelope is None else _opened(envelope),
            str(body.get("reviewer") or ""),
        )


def is_review(type_: str, body: Mapping[str, JsonValue]) -> bool:
    """Whether a leaf is a reviewer's act: an APPROVAL, or an OVERRIDE of an answer."""
    return type_ == "APPROVAL" or (type_ == "OVERRIDE" and body.get("what") == "answer")


def satisfied(
    requires: tuple[Requirement, ...], votes: Mapping[str, tuple[tuple[str, str], ...]]
) -> bool:
    """Whether enough different reviewers stand for an answer. `votes`: by reviewer's vkey, what
    their acts count for."""
    if not requires:
        return bool(votes)
    return all(
        sum(any(name == each.approval for name, _ in counts) for counts in votes.values())
        >= each.count
        for each in requires
    )


def _enveloped(envelope: Envelope) -> dict[str, JsonValue]:
    return {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": each.keyid, "sig": base64.b64encode(each.sig).decode()}
            for each in envelope.signatures
        ],
    }


def _opened(value: JsonValue) -> Envelope:
    """One spelling of one envelope: it stands in a leaf. Raises: EvidenceError."""
    try:
        envelope = Envelope.decode(encode(value))
    except (CanonicalError, ReleaseError) as error:
        raise EvidenceError(f"envelope: {error.message}") from None
    if _enveloped(envelope) != value:
        raise EvidenceError("envelope: not in the form that leaves have it")
    return envelope


def envelope_of(data: bytes) -> Envelope:
    """An envelope as a reviewer's program sends it, brought into the form that leaves have.

    Raises: EvidenceError.
    """
    try:
        found = Envelope.decode(data)
    except ReleaseError as error:
        raise EvidenceError(error.message) from None
    return Envelope(
        found.payload_type,
        found.payload,
        tuple(EnvelopeSignature(each.keyid, each.sig) for each in found.signatures),
    )


def _act(value: JsonValue) -> Act:
    try:
        return Act(_string(value, "act"))
    except ValueError:
        raise EvidenceError("act: not a word of the format") from None


def _string(value: JsonValue, what: str) -> str:
    if type(value) is not str or len(value) > 1024:
        raise EvidenceError(f"{what}: not a string of at most 1,024 characters")
    return value


def _text(value: JsonValue, shape: re.Pattern[str], what: str) -> str:
    if type(value) is not str or shape.fullmatch(value) is None:
        raise EvidenceError(f"{what}: malformed")
    return value


def _list(value: JsonValue, what: str) -> list[JsonValue]:
    if type(value) is not list or len(value) > MAX_LISTED:
        raise EvidenceError(f"{what}: not a list of at most {MAX_LISTED}")
    return value


def _fields(value: JsonValue, names: set[str], what: str) -> dict[str, JsonValue]:
    if type(value) is not dict or value.keys() != names:
        raise EvidenceError(f"{what}: not an object with {', '.join(sorted(names))}")
    return value
