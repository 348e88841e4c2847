"""Logs with reviewers' acts in them: real signatures, and whatever a forger would change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from exclave_protocol.approval import Act, Place, Requirement, Review, Stands, Statement
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import Disclosure, make
from exclave_protocol.leaf import LeafType
from exclave_protocol.note import SigningKey
from exclave_protocol.tree import leaf_hash

from .bundles import START, Log, private_key

TWO = (Requirement("four-eyes", "1", 2, True),)
ONE = (Requirement("four-eyes", "1", 1, True),)
ASKER = "aaaaaaaa"


def vkey(name: str, seed: str = "") -> str:
    """A reviewer's public key."""
    return SigningKey(name, private_key(f"reviewer {seed or name}")).vkey


def secret(name: str, value: str, salt: int) -> Disclosure:
    """A private field, the same on every run."""
    return make(name, value, salt.to_bytes(32, "big"))


def _same(review: Review) -> Review:
    return review


def _signed(statement: Statement) -> Statement:
    return statement


@dataclass
class Acts:
    """One decision that waits, and what is done about it."""

    requires: tuple[Requirement, ...] = TWO
    log: Log = field(default_factory=lambda: Log("edge-1").fill(2))
    decision: str = "d" * 32
    places: dict[str, Place] = field(default_factory=dict)
    """Of records, by what they are."""
    seeds: dict[str, str] = field(default_factory=dict)
    """Of reviewers' keys, by name."""
    held: Disclosure = field(default_factory=lambda: secret("held", "yes", 1))

    def note(self, name: str, data: bytes) -> Place:
        """Remember a record that was just appended."""
        self.places[name] = Place(len(self.log.leaves) - 1, leaf_hash(data))
        return self.places[name]

    def register(
        self,
        name: str,
        *,
        key: str = "",
        stands: bool = True,
        seed: str = "",
        remember: bool = True,
    ) -> Acts:
        """Make a reviewer, or remove one. `seed`: of another key than usual. `remember`: later acts
        rest on this one."""
        self.seeds[name] = seed or self.seeds.get(name, name)
        body: dict[str, JsonValue] = {
            "what": "reviewer",
            "reviewer": name,
            "vkey": vkey(name, self.seeds[name]),
            "key": key or f"key-{name}",
            "roles": ["reviewer"],
            "stands": stands,
        }
        data = self.log.append(LeafType.OVERRIDE, body)
        if stands and remember:
            self.note(name, data)
        return self

    def ask(self) -> Acts:
        """The decision, which is held back."""
        actor: JsonValue = {"key": ASKER, "roles": ["analyst"]}
        body = {"decision": self.decision, "action": "chat", "actor": actor}
        intent = self.note("intent", self.log.append(LeafType.INTENT, body))
        names = [each.approval for each in self.requires]
        ended: dict[str, JsonValue] = {
            "decision": self.decision,
            "intent": str(intent.seq),
            "outcome": "answered",
            "degraded": "approval" if names else "person",
        }
        if names:
            ended["approvals"] = list(names)
            ended["requires"] = [each.to_json() for each in self.requires]
        self.note("result", self.log.append(LeafType.RESULT, ended, sd=[self.held.digest]))
        return self

    def act(
        self,
        name: str,
        act: Act = Act.APPROVE,
        stands: Stands = Stands.WAITING,
        *,
        beside: Sequence[str] = (),
        answer: Disclosure | None = None,
        by: str = "",
        stated: Callable[[Statement], Statement] = _signed,
        said: Callable[[Review], Review] = _same,
        kind: LeafType | None = None,
        commits: bool = True,
    ) -> Acts:
        """One act. `beside`: whose count with it. `by`: whose key signs. `stated`, `said`: change
        what is signed, what the record says. `commits`: whether to what was shown."""
        seq, seed = len(self.log.leaves), by or self.seeds.get(name, name)
        shown = secret("shown", f"text {seq}", seq + 100)
        given = None if act is Act.REFUSE else (answer or self.held).digest
        statement = stated(
            Statement(
                self.log.origin,
                self.decision,
                act,
                self.places["intent"],
                self.places["result"],
                shown.digest,
                given,
                vkey(by or name, seed),
                START * 10**9,
            )
        )
        review = said(
            Review(
                self.decision,
                act,
                given,
                stands,
                self.requires,
                self.places.get(name, Place(0, bytes(32))),
                (("four-eyes", "reviewer"),) if self.requires else (("", "reviewer"),),
                tuple(self.places[f"{each} acts"] for each in beside),
                statement.sign(private_key(f"reviewer {seed}")),
                name,
            )
        )
        sd = [shown.digest] if commits else []
        if act is Act.CORRECT and answer is not None:
            sd.append(answer.digest)
        usual = LeafType.OVERRIDE if act is Act.CORRECT else LeafType.APPROVAL
        self.note(f"{name} acts", self.log.append(kind or usual, review.body(), sd=sd))
        return self

    def expire(
        self,
        stands: Stands = Stands.REFUSED,
        said: Callable[[Review], Review] = _same,
    ) -> Acts:
        """Nobody acted in time."""
        review = said(Review(self.decision, Act.EXPIRE, None, stands, self.requires, None))
        self.log.append(LeafType.APPROVAL, review.body())
        return self


def ready(requires: tuple[Requirement, ...] = TWO) -> Acts:
    """Anne and Ben are reviewers, and a decision waits."""
    return Acts(requires).register("anne").register("ben").ask()


def swapped(place: Place) -> Place:
    """Another record's hash."""
    return replace(place, hash=bytes(32))
