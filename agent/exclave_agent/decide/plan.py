"""Plan: who may answer a call, best first, with what, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from exclave_agent.errors import TooManyTokens
from exclave_agent.ports import Generate, ModelInfo
from exclave_policy.guards.checks import CompiledValidator
from exclave_policy.kinds.routes import Otherwise, Route, Target
from exclave_policy.model import NO_OBLIGATIONS, Obligations

from .breaker import Breaker
from .budget import Reservation
from .grants import Grant
from .redact import Redacted
from .retry import RetryBudget


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that attempts of one target used; None: not known, so its worst case counts."""

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0

    def plus(self, other: Usage | None) -> Usage:
        """Both together."""
        if other is None:
            return self
        return Usage(
            _sum(self.prompt, other.prompt),
            _sum(self.completion, other.completion),
            self.cached + other.cached,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass(slots=True)
class Attempt:
    """What became of one target, for the RESULT."""

    model: str
    outcome: str
    """Skipped: "absent", "action", "denied", "data_class", "condition", "cost", "too_long",
    "slow", "open", "budget", "input_refused", "redaction". Asked: "answered", "cancelled",
    "hedge_lost", "unsure", or the code of its error."""
    place: int
    """Of the target in its route."""
    us: int = 0
    """Microseconds that it was asked for."""
    asked: bool = False
    """Whether it was asked, rather than skipped."""


BY_DESIGN = frozenset(
    {
        "absent",
        "action",
        "denied",
        "data_class",
        "condition",
        "cost",
        "too_long",
        "input_refused",
        TooManyTokens.code,
    }
)
"""Outcomes that say where a request belongs, not that anything is wrong."""


@dataclass(slots=True)
class Choice:
    """One target that may be asked."""

    target: Target
    info: ModelInfo
    breaker: Breaker
    place: int = 0
    """Of the target in its route."""
    request: Generate | None = None
    """Of a generating call."""
    reservation: Reservation | None = None
    usage: Usage | None = None
    """What asking it used; None: it was not asked, or computed nothing."""
    grants: tuple[Grant, ...] = ()
    """What the policy allowed besides the model itself."""
    obligations: Obligations = NO_OBLIGATIONS
    """What the policy asks for along with an answer of this target: of the name asked for, of the
    target itself and of what it needs (tools, endpoint, secret) together."""
    validators: tuple[CompiledValidator, ...] = ()
    """What its answer is held to."""
    redacted: Redacted | None = None
    """The call as this target may see it; None: as it came."""
    sent: Generate | None = None
    """What it is asked instead of `request`."""
    repaired: bool = False
    """It was told what is wrong with its answer, and is asked once more."""

    @property
    def held(self) -> bool:
        """Whether nothing of its answer may leave before all of it was looked at."""
        return bool(self.obligations.approvals) or any(
            each.validator.mode == "enforce" for each in self.validators
        )

    @property
    def repairable(self) -> bool:
        """Whether it may come to be asked twice."""
        return any(
            each.validator.repair and each.validator.mode == "enforce" for each in self.validators
        )

    def used(self, usage: Usage) -> None:
        """Count what one more attempt used."""
        self.usage = usage.plus(self.usage)


@dataclass(slots=True)
class Plan:
    """Who may answer, best first, and who may not."""

    route: Route
    implicit: bool
    """A model was asked for by its own name."""
    retries: RetryBudget
    choices: list[Choice] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    """Skipped targets; those that are asked follow."""
    too_long: TooManyTokens | None = None
    """Why a target was skipped for the length of the answer asked for."""

    @property
    def name(self) -> str:
        """The route's name; "" of an implicit one."""
        return "" if self.implicit else self.route.name

    @property
    def otherwise(self) -> Otherwise:
        """What is answered when nobody can."""
        return self.route.otherwise

    def fallen(self, place: int) -> bool:
        """Whether something other than the route's design kept a target from answering that the
        route prefers to the one at `place`."""
        return any(each.place < place and each.outcome not in BY_DESIGN for each in self.attempts)

    def skip(self, place: int, outcome: str) -> None:
        """Note a target that is not asked."""
        self.attempts.append(Attempt(self.route.targets[place].model, outcome, place))
