"""What decisions leave behind beside their leaves: counts, spent budgets, breakers, spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from .models import NO_TIMING, Timing

BreakerState: TypeAlias = Literal["closed", "open", "half-open"]


@dataclass(slots=True, kw_only=True)
class Decided:
    """One decision that has ended, as the metrics see it. Names are from signed documents or
    from fixed sets, never a caller's text, so that nobody can grow the number of series.

    Nobody changes it; to freeze it would take longer than to make it."""

    action: str
    model: str
    """The model that answered, or was to; "" when the release has none of that name."""
    route: str = ""
    """The route that was asked for; "" when a model was asked by its own name."""
    outcome: str
    """As in the RESULT leaf, or "unrecorded"."""
    seconds: float
    first_seconds: float | None = None
    """Until the first piece of the answer could leave; None: there was none."""
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0
    timing: Timing = NO_TIMING
    cache: str = ""
    """"exact" or "semantic": the answer came from the completion cache; else ""."""
    degraded: str = ""
    """"fallback" (not the first target), "canned", "person"; "": the first choice answered."""
    attempts: int = 1
    cost_micro: int = 0
    """Millionths of `currency`."""
    currency: str = ""
    priority: str = "interactive"


class DecisionMetrics(Protocol):
    """Where decisions are counted."""

    def decided(self, decided: Decided) -> None:
        """Count one decision; called on the event loop, so it must be quick."""
        ...


@dataclass(frozen=True, slots=True)
class BreakerView:
    """One target's circuit breaker now."""

    route: str
    target: str
    state: BreakerState
    reason: str
    """What opened it: "errors", "latency", "invalid"; "" while closed."""
    opens_in: float
    """Seconds until a probe is let through; 0 unless open."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """One account of the budget tree now: settled and reserved amounts against the limits."""

    account: str
    """Path of signed names: "tenant", "tenant/team:claims", "tenant/team:claims/workflow:triage".
    Runs, whose names callers choose, are not shown."""
    period: str
    """"day", "month" or "total"."""
    tokens: int
    tokens_reserved: int
    tokens_limit: int | None
    money_micro: int
    money_reserved_micro: int
    money_limit_micro: int | None
    currency: str


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An amount that becomes durable in the same transaction as the leaf it rides on: a
    reservation with its INTENT, the difference to what was used (often negative) with its
    RESULT."""

    account: str
    """Also of a run: "tenant/team:a/workflow:b/run:<id>"."""
    period: str
    """Start of the period, "2026-11-26", "2026-11" or "total" (UTC)."""
    tokens: int
    money_micro: int


class Ledger(Protocol):
    """The durable sums of ledger entries."""

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """(account, period) -> (tokens, money in millionths). Raises: StorageError."""
        ...

    async def forget(self, before: Sequence[str]) -> None:
        """Drop the sums of these periods, which are over. Raises: StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What an Approval document asked for when a decision was handed over: a later release
    changes nothing of it."""

    approval: str
    version: str
    roles: tuple[str, ...]
    """Who may approve."""
    count: int
    separate: bool
    told: str
    """The text that the caller is given meanwhile."""


@dataclass(frozen=True, slots=True)
class Referral:
    """A decision that was handed to a person. What was asked is in the vault, under it."""

    decision: str
    route: str
    """The route's signed name."""
    created_ns: int
    """Wall clock, nanoseconds since the Unix epoch."""
    approvals: tuple[str, ...] = ()
    """Names of the Approval documents that the answer waits for: it is made, and in the vault.
    Empty: there is no answer that may be given."""
    guard: str = ""
    """The Validator that handed the decision over; "": the route did, or an approval."""
    terms: tuple[Terms, ...] = ()
    """Of `approvals`, in that order."""
    expires_ns: int = 0
    """Wall clock: from then on it is refused; 0: it waits for ever."""


class RedactionKeys(Protocol):
    """What keyed tokens are made with."""

    def key(self, name: str) -> bytes:
        """32 bytes, the same for the same secret; `name` "": the agent's own.

        Raises: Unavailable ("secret_missing") when there is no secret of that name.
        """
        ...


class Referrals(Protocol):
    """Decisions that wait for a person; they survive a restart."""

    async def add(self, referral: Referral) -> None:
        """Durable when it returns. Raises: StorageFull, StorageError."""
        ...

    async def count(self) -> int:
        """How many wait. Raises: StorageError."""
        ...

    async def waiting(self, limit: int) -> Sequence[Referral]:
        """The oldest that wait. Raises: StorageError."""
        ...

    async def of(self, decision: str) -> Referral | None:
        """That of a decision; None: it does not wait. Raises: StorageError."""
        ...

    async def overdue(self, now_ns: int, limit: int) -> Sequence[Referral]:
        """Those whose time is over. Raises: StorageError."""
        ...

    async def remove(self, decision: str) -> None:
        """It waits no more; again is no error. Raises: StorageFull, StorageError."""
        ...


class Span(Protocol):
    """One timed step of a trace."""

    def set(self, key: str, value: str | int | float | bool) -> None:
        """An attribute: never raw data, never a name that a caller chose."""
        ...


class Tracer(Protocol):
    """Makes spans; they nest by the task's context."""

    def span(self, name: str) -> AbstractContextManager[Span]:
        """A step that lasts as long as the `with`."""
        ...


class NoSpan:
    """Nobody looks."""

    def set(self, key: str, value: str | int | float | bool) -> None:
        """See `Span`."""

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class NoTracer:
    """Tracing is not configured."""

    def span(self, name: str) -> AbstractContextManager[Span]:
        """See `Tracer`."""
        return _NO_SPAN


_NO_SPAN = NoSpan()
