"""What the records of one log say, counted while they pass: bounded, whatever they hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from .canonical import JsonValue
from .leaf import Leaf, LeafType, format_time

MAX_NAMES = 500
"""Different names (models, rules, days ...) that are counted one by one; the others together."""
MAX_LENGTH = 120
"""Characters of a name, or of what is said of an event, that are kept."""
MAX_EVENTS = 1000
"""Records that are listed one by one."""
OTHERS = "(others)"
NONE = "(none)"
EVENTS = (
    *(LeafType.OVERRIDE, LeafType.APPROVAL, LeafType.GAP, LeafType.RECOVERY, LeafType.INCIDENT),
    *(LeafType.ERASURE, LeafType.DISCLOSURE, LeafType.KEY_ROTATE, LeafType.EPOCH),
)
"""Types that an auditor looks at one by one."""


@dataclass(slots=True)
class Count:
    """How often each name was met, the first `MAX_NAMES` of them by themselves."""

    names: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Meet it once more."""
        name = name[:MAX_LENGTH]
        if name not in self.names and len(self.names) >= MAX_NAMES:
            name = OTHERS
        self.names[name] = self.names.get(name, 0) + 1

    def ranked(self) -> list[tuple[str, int]]:
        """The most frequent first; of equals, by name."""
        return sorted(self.names.items(), key=lambda each: (-each[1], each[0]))


@dataclass(frozen=True, slots=True)
class Event:
    """One record that is listed."""

    seq: int
    time_ns: int
    type: str
    detail: str


@dataclass(slots=True)
class Use:
    """Where something was used."""

    first: int
    last: int
    """Seqs."""
    records: int


@dataclass(slots=True)
class Uses:
    """What was used, by its names, the first `MAX_NAMES` of them."""

    known: dict[tuple[str, ...], Use] = field(default_factory=dict)

    def add(self, key: tuple[str, ...], seq: int) -> None:
        """It was used here, too."""
        use = self.known.get(key)
        if use is not None:
            use.last, use.records = seq, use.records + 1
        elif len(self.known) < MAX_NAMES:
            self.known[key] = Use(seq, seq, 1)


@dataclass(slots=True)
class Summary:
    """Feed the records of the range by ascending seq."""

    days: Count = field(default_factory=Count)
    """By day (UTC) of the records' own time."""
    types: Count = field(default_factory=Count)
    outcomes: Count = field(default_factory=Count)
    models: Count = field(default_factory=Count)
    """Of RESULTs: who answered."""
    rules: Count = field(default_factory=Count)
    """Of RESULTs: which rule decided."""
    operators: Count = field(default_factory=Count)
    """Of the operators' log: action and outcome."""
    used_models: Uses = field(default_factory=Uses)
    """Of RESULTs: name and digest of the model that answered."""
    used_policies: Uses = field(default_factory=Uses)
    """Of INTENTs and RESULTs: the policy's digest."""
    used_releases: Uses = field(default_factory=Uses)
    """Of all records that name one: the release's digest."""
    events: list[Event] = field(default_factory=list)
    events_left: int = 0
    """Events beyond those listed."""

    def add(self, leaf: Leaf) -> None:
        """Count one record."""
        self.days.add(format_time(leaf.time_ns)[:10])
        self.types.add(leaf.type)
        body = leaf.body
        self._add_uses(leaf)
        if leaf.type is LeafType.RESULT:
            self.outcomes.add(_text(body.get("outcome")))
            self.models.add(_inner(body.get("model"), "name"))
            self.rules.add(_inner(body.get("policy"), "rule"))
        elif leaf.type is LeafType.OPERATOR:
            self.operators.add(f"{_text(body.get('action'))}: {_text(body.get('outcome'))}")
        elif leaf.type in EVENTS:
            if len(self.events) == MAX_EVENTS:
                self.events_left += 1
                return
            detail = ", ".join(
                f"{name} {_text(value)}"
                for name, value in sorted(body.items())
                if isinstance(value, str | int)
            )
            self.events.append(Event(leaf.seq, leaf.time_ns, leaf.type, detail[:MAX_LENGTH]))

    def _add_uses(self, leaf: Leaf) -> None:
        body, seq = leaf.body, leaf.seq
        release, policy, model = body.get("release"), body.get("policy"), body.get("model")
        if isinstance(release, dict):
            release = release.get("digest")
        if isinstance(release, str) and release:
            self.used_releases.add((release[:MAX_LENGTH],), seq)
        if isinstance(policy, dict) and isinstance(digest := policy.get("digest"), str):
            self.used_policies.add((digest[:MAX_LENGTH],), seq)
        if leaf.type is LeafType.RESULT and isinstance(model, dict):
            name, digest = model.get("name"), model.get("digest")
            if isinstance(name, str):
                known = digest if isinstance(digest, str) else ""
                self.used_models.add((name[:MAX_LENGTH], known[:MAX_LENGTH]), seq)


def _text(value: JsonValue) -> str:
    if value is None or value == "":
        return NONE
    if value is True or value is False:
        return "yes" if value else "no"
    return value if isinstance(value, str) else str(value)


def _inner(value: JsonValue, name: str) -> str:
    return _text(value.get(name) if isinstance(value, dict) else None)
