"""Section 9 of the page: what reviewers did about decisions that wait."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stranger.leaves import Leaf
from stranger.notes import LOG, parse_vkey
from stranger.wire import Refused, items, parse, record, text, time_ns, unb64, unhex
from stranger.wire import decimal as integer

TYPE = "application/vnd.exclave.approval+json"
NAME = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
DIGEST = r"[A-Za-z0-9_-]{43}"
DECISION = r"[0-9a-f]{32}"
Named = tuple[int, bytes]
"""A record, by seq and leaf hash."""


@dataclass
class Vote:
    """An act that stands for an answer."""

    name: str
    public: bytes
    key: object
    answer: object
    counts: list[tuple[str, str]]
    corrects: bool

    def same(self, other: "Vote") -> bool:
        """Whether both are one person."""
        keys = self.key is not None and self.key == other.key
        return keys or self.name == other.name or self.public == other.public


@dataclass
class Waiting:
    """A decision that waits; of one whose RESULT is not here, what its acts tell."""

    here: bool
    intent: int
    result: int
    asker: object = None
    sd: tuple[str, ...] = ()
    requires: list[dict[str, object]] | None = None
    over: bool = False
    votes: dict[int, Vote] = field(default_factory=dict)


@dataclass
class Act:
    """An act and what was signed."""

    leaf: Leaf
    act: str
    answer: object
    stands: str
    requires: list[dict[str, object]]
    counts: list[tuple[str, str]]
    registered: Named
    beside: list[Named]
    intent: Named
    result: Named
    by: str


def is_act(leaf: Leaf) -> bool:
    """Whether a record is one."""
    return leaf.kind == "APPROVAL" or (
        leaf.kind == "OVERRIDE" and leaf.body.get("what") == "answer"
    )


def _named(value: object) -> Named:
    fields = record(value, "hash", "seq")
    return integer(fields["seq"]), unhex(fields["hash"])


def _requires(value: object) -> list[dict[str, object]]:
    found = []
    for each in items(value, 256):
        fields = record(each, "approval", "count", "separate", "version")
        count = fields["count"]
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise Refused("count")
        if not isinstance(fields["separate"], bool):
            raise Refused("separate")
        text(fields["approval"])
        text(fields["version"])
        found.append(fields)
    if len({str(each["approval"]) for each in found}) != len(found):
        raise Refused("a document twice")
    return found


def _counts(value: object) -> list[tuple[str, str]]:
    found = []
    for each in items(value, 256):
        fields = record(each, "approval", "role")
        found.append((text(fields["approval"]), text(fields["role"])))
    return found


def _signed(value: object) -> dict[str, object]:
    """Check 1: the payload, which the key that it names has signed."""
    envelope = record(value, "payload", "payloadType", "signatures")
    (signature,) = items(envelope["signatures"], 1) or [None]
    payload = unb64(envelope["payload"])
    if envelope["payloadType"] != TYPE or len(payload) > 4_096:
        raise Refused("another payload")
    names = ("act", "answer", "decision", "intent", "log", "result", "reviewer", "schema")
    said = record(parse(payload), *names, "shown", "time")
    key = parse_vkey(text(said["reviewer"]))
    text(key.name, NAME)
    message = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
    if key.kind != LOG or not key.holds(unb64(record(signature, "keyid", "sig")["sig"]), message):
        raise Refused("not signed by the reviewer")
    if said["schema"] != "exclave.approval/v1":
        raise Refused("another schema")
    time_ns(said["time"])
    return said


def _read(leaf: Leaf) -> Act:
    """Checks 1 to 3."""
    body = leaf.body
    said = _signed(body.get("envelope"))
    act = text(body.get("act"), "approve|correct|refuse")
    agreed = (said["log"], said["decision"], said["act"], said["answer"])
    if agreed != (leaf.log, body.get("decision"), act, body.get("answer")):
        raise Refused("the payload says something else")
    if (act == "correct") != (leaf.kind == "OVERRIDE"):
        raise Refused("a correction is an OVERRIDE, and nothing else is")
    if (said["answer"] is None) != (act == "refuse"):
        raise Refused("an answer to refuse, or none to give")
    shown = text(said["shown"], DIGEST)
    if shown not in leaf.sd or (act == "correct" and said["answer"] not in leaf.sd):
        raise Refused("shown or answer is not among the commitments")
    if parse_vkey(text(said["reviewer"])).name != body.get("reviewer"):
        raise Refused("another reviewer's name")
    counts = _counts(body.get("counts"))
    if not counts:
        raise Refused("counts for nothing")
    made = Act(
        leaf,
        act,
        said["answer"],
        text(body.get("stands"), "waiting|released|refused"),
        _requires(body.get("requires")),
        counts,
        _named(body.get("registered")),
        [_named(each) for each in items(body.get("beside"), 256)],
        _named(said["intent"]),
        _named(said["result"]),
        text(said["reviewer"]),
    )
    if not made.intent[0] < made.result[0] < leaf.seq:
        raise Refused("INTENT, RESULT and act in another order")
    return made


class Acts:
    """All acts of a log, by ascending seq."""

    def __init__(self, hash_at: Callable[[int], bytes | None]) -> None:
        """`hash_at`: of a seq; None beyond the tree."""
        self._hash_at = hash_at
        self._since = self._next = 0
        self._askers: dict[object, tuple[int, object]] = {}
        self._waiting: dict[object, Waiting] = {}
        self._reviewers: dict[int, dict[str, object]] = {}
        self._removed: dict[object, int] = {}

    def add(self, leaf: Leaf) -> None:
        """The next record. Raises: Refused."""
        if leaf.seq != self._next:
            self._since = leaf.seq
        self._next = leaf.seq + 1
        body = leaf.body
        if is_act(leaf):
            self._act(leaf)
        elif leaf.kind == "OVERRIDE" and body.get("what") == "reviewer":
            if body.get("stands") is True:
                self._reviewers[leaf.seq] = body
            else:
                self._removed[body.get("vkey")] = leaf.seq
        elif leaf.kind == "INTENT":
            actor = body.get("actor")
            asker = actor.get("key") if isinstance(actor, dict) else None
            self._askers[body.get("decision")] = (leaf.seq, asker)
        elif leaf.kind == "RESULT":
            self._result(leaf)

    def _result(self, leaf: Leaf) -> None:
        body = leaf.body
        seq, asker = self._askers.pop(body.get("decision"), (None, None))
        names = body.get("approvals") or []
        if not names and body.get("degraded") != "person":
            return
        intent, requires = integer(body.get("intent")), _requires(body.get("requires", []))
        if intent >= self._since and intent != seq:
            raise Refused("another INTENT than the decision's")
        if [each["approval"] for each in requires] != names:
            raise Refused("approvals and requires differ")
        found = asker if intent == seq else None
        self._waiting[body.get("decision")] = Waiting(
            True, intent, leaf.seq, found, leaf.sd, requires
        )

    def _act(self, leaf: Leaf) -> None:
        decision = text(leaf.body.get("decision"), DECISION)
        if leaf.kind == "APPROVAL" and "what" in leaf.body:
            raise Refused("an APPROVAL with what")
        if leaf.body.get("act") == "expire":
            self._expire(leaf, decision)
            return
        act = _read(leaf)
        for seq, digest in (act.intent, act.result, act.registered, *act.beside):
            if seq >= leaf.seq or self._hash_at(seq) not in (None, digest):
                raise Refused(f"another record than that of seq {seq}")
        case = self._waiting.get(decision)
        if not self._here(case is not None, act.result):
            case = self._waiting[decision] = Waiting(False, act.intent[0], act.result[0])
        assert case is not None
        body = self._reviewer(act)
        self._case(act, case, body)
        key = parse_vkey(act.by)
        api = None if body is None else body.get("key")
        vote = Vote(key.name, key.public, api, act.answer, act.counts, act.act == "correct")
        self._sum(act, vote, case)
        case.votes[leaf.seq] = vote
        self._settle(decision, act.stands, case)

    def _expire(self, leaf: Leaf, decision: str) -> None:
        body = leaf.body
        if leaf.kind != "APPROVAL" or body.get("stands") != "refused":
            raise Refused("time that does not refuse")
        nobody = [body.get(name) for name in ("answer", "envelope", "registered", "reviewer")]
        if nobody != [None] * 4 or body.get("counts") != [] or body.get("beside") != []:
            raise Refused("time that says who")
        case = self._waiting.get(decision)
        if case is None:
            if not self._since:
                raise Refused("time for what does not wait")
            case = self._waiting[decision] = Waiting(False, -1, -1)
        self._waits(_requires(body.get("requires")), case)
        self._settle(decision, "refused", case)

    def _settle(self, decision: str, stands: str, case: Waiting) -> None:
        if stands == "waiting":
            return
        if case.here:
            del self._waiting[decision]
        else:
            case.over = True

    @staticmethod
    def _waits(requires: list[dict[str, object]], case: Waiting) -> None:
        """That it is not over, and for the same as its RESULT says, or its first act."""
        if case.over or (case.requires is not None and case.requires != requires):
            raise Refused("over, or for something else")
        case.requires = requires

    def _here(self, found: bool, named: Named) -> bool:
        """Whether it is there; it must be, where records are without a gap."""
        if not found and named[0] >= self._since:
            raise Refused(f"record {named[0]} is not what it should be")
        return found

    def _reviewer(self, act: Act) -> dict[str, object] | None:
        """Check 5; the registration."""
        if act.registered[0] < self._removed.get(act.by, -1):
            raise Refused("a key that was ended since")
        body = self._reviewers.get(act.registered[0])
        if not self._here(body is not None, act.registered):
            return None
        assert body is not None
        if body.get("vkey") != act.by:
            raise Refused("not a reviewer's key")
        roles = body.get("roles")
        if any(role not in (roles if isinstance(roles, list) else []) for _, role in act.counts):
            raise Refused("without the role")
        return body

    def _case(self, act: Act, case: Waiting, reviewer: dict[str, object] | None) -> None:
        """Check 6."""
        self._waits(act.requires, case)
        if (act.result[0], act.intent[0]) != (case.result, case.intent):
            raise Refused("other records than the decision's")
        names = {str(each["approval"]) for each in act.requires} or {""}
        if any(name not in names for name, _ in act.counts):
            raise Refused("counts for something else")
        if reviewer is None or case.asker is None or case.asker != reviewer.get("key"):
            return
        apart = {each["approval"] for each in act.requires if each["separate"]}
        if act.act != "refuse" and any(name in apart for name, _ in act.counts):
            raise Refused("whoever asked")

    def _sum(self, act: Act, own: Vote, case: Waiting) -> None:
        """Checks 7 and 8."""
        votes, known, good = [own], case.here, set(case.sd)
        for named in act.beside:
            vote = case.votes.get(named[0])
            if not self._here(vote is not None, named):
                known = False
                continue
            assert vote is not None
            if vote.answer != act.answer or any(vote.same(other) for other in votes):
                raise Refused("for another answer, or twice by one")
            votes.append(vote)
            if vote.corrects:
                good.add(str(vote.answer))
        if known and act.act == "approve" and act.answer not in good:
            raise Refused("an answer that nobody made")
        if (act.act == "refuse") != (act.stands == "refused"):
            raise Refused("a refusal refuses, and nothing else does")
        if act.act == "refuse" or not known:
            return
        enough = all(
            sum(any(name == each["approval"] for name, _ in vote.counts) for vote in votes)
            >= int(str(each["count"]))
            for each in act.requires
        )
        if enough != (act.stands == "released"):
            raise Refused("it does not add up")


def faults(leaves: Iterable[Leaf], hash_at: Callable[[int], bytes | None]) -> list[str]:
    """What does not hold, in words."""
    acts, found = Acts(hash_at), []
    for leaf in leaves:
        try:
            acts.add(leaf)
        except Refused as error:
            found.append(f"seq {leaf.seq}: {error}")
    return found
