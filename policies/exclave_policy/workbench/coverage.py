"""Coverage: which rules the cases reach, and which way each term of their conditions went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exclave_policy.conditions import Condition, ConditionFailed, bind
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.rules import Rule
from exclave_policy.model import Request
from exclave_policy.schema import activation
from exclave_policy.workbench.guarded import Outcome
from exclave_policy.workbench.terms import terms_of


@dataclass(frozen=True, slots=True)
class Branch:
    """One way of one term."""

    rule: str
    term: str
    value: bool
    file: str
    line: int

    def __str__(self) -> str:
        way = "true" if self.value else "false"
        return f"{self.file}:{self.line}: rule {self.rule}: never {way}: {self.term}"


class Coverage:
    """What the cases run so far have reached."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self._policy = policy
        self._reached: set[str] = set()
        self._seen: set[tuple[str, str, bool]] = set()
        self._terms: dict[str, tuple[Condition, ...]] = {
            rule.id: terms_of(rule.when) for rule in policy.rules if rule.when is not None
        }

    def take(self, request: Request, matched: Iterable[str]) -> None:
        """One case. A term counts where its rule is about the request, whoever decides."""
        self._reached.update(matched)
        bound = None
        for rule in self._policy.candidates(request):
            for term in self._terms.get(rule.id, ()):
                try:
                    bound = bound or bind(activation(request))
                    self._seen.add((rule.id, term.source, term.holds(bound)))
                except ConditionFailed:
                    continue  # neither way was seen

    @property
    def reached(self) -> tuple[str, ...]:
        """Ids of rules that matched in a case, in order of evaluation."""
        return tuple(rule.id for rule in self._policy.rules if rule.id in self._reached)

    @property
    def unreached(self) -> tuple[Rule, ...]:
        """Rules that no case reached."""
        return tuple(rule for rule in self._policy.rules if rule.id not in self._reached)

    @property
    def branches(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._all())

    @property
    def missed(self) -> tuple[Branch, ...]:
        """Those that no case took."""
        return tuple(b for b in self._all() if (b.rule, b.term, b.value) not in self._seen)

    def _all(self) -> Iterator[Branch]:
        for rule in self._policy.rules:
            for term in self._terms.get(rule.id, ()):
                for value in (True, False):
                    yield Branch(rule.id, term.source, value, rule.file, rule.line)


class GuardCoverage:
    """What the guards have done in the cases run so far."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self._all = [
            *(f"validator {name} {way}" for name in policy.validators for way in _WAYS.values()),
            *(f"redaction {name} finds nothing" for name in policy.redactions),
        ]
        self._seen: set[str] = set()

    def take(self, outcome: Outcome) -> None:
        """One case."""
        for name, failure in outcome.validators.items():
            self._seen.add(f"validator {name} {_WAYS[failure is None]}")
        self._seen.update(f"redaction {name} finds nothing" for name in outcome.redactions)

    @property
    def ways(self) -> int:
        """How many there are."""
        return len(self._all)

    @property
    def missed(self) -> tuple[str, ...]:
        """Those that no case saw, in words."""
        return tuple(each for each in self._all if each not in self._seen)


_WAYS = {True: "never passes", False: "never fails"}
