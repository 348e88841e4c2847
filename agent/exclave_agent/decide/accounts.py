"""Accounts: which of a budget's accounts a call is charged to, and in which period.

Pure. An account is named by the path of its signed names, so a new document goes on with the
sums of the accounts that kept their names. Days and months are UTC's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from exclave_agent.errors import BudgetExceeded
from exclave_policy.kinds.budgets import Budget, Limits, Period, Team

from .calls import Call

RUN_DAYS = 7
"""A run's sum is what it spent today and in the six days before: a run is forgotten a week after
its last use, so that runs, which callers name, cannot pile up for ever."""

TENANT = "tenant"
_DAY = timedelta(days=1)
_DAY_SECONDS = 86_400
_DAY_NS = _DAY_SECONDS * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Account:
    """One account that a call is charged to."""

    path: str
    """Its name in the ledger. A run's own name is in it as a digest: callers choose it."""
    shown: str
    """Its name for people: signed names only."""
    limits: Limits
    is_run: bool = False


def accounts_of(budget: Budget, call: Call) -> tuple[Account, ...]:
    """The accounts that `call` is charged to, the tenant's first.

    Raises: BudgetExceeded when the document admits only callers of its teams, or requests of
    the team's workflows, and this is neither.
    """
    accounts = [Account(TENANT, TENANT, budget.tenant)]
    team = budget.team_of(call.caller.roles)
    if team is None:
        if budget.teams_only:
            raise BudgetExceeded("this key's roles belong to no team that has a budget")
        return tuple(accounts)
    path = f"{TENANT}/team:{team.name}"
    accounts.append(Account(path, path, team.limits))
    accounts += _of_workflow(team, path, call)
    return tuple(accounts)


def _of_workflow(team: Team, path: str, call: Call) -> list[Account]:
    workflow = team.workflows.get(call.workflow)
    if workflow is None:
        if team.workflows_only:
            names = ", ".join(team.workflows)
            raise BudgetExceeded(
                f"team {team.name} has a budget for its workflows only: name one of {names}"
            )
        return []
    path = f"{path}/workflow:{workflow.name}"
    accounts = [Account(path, path, workflow.limits)]
    if workflow.run is not None:
        # Requests that name no run share one: leaving the name out must not lift the limit.
        name = hashlib.sha256(call.run.encode()).hexdigest()[:32]
        accounts.append(Account(f"{path}/run:{name}", "this run", workflow.run, is_run=True))
    return accounts


def all_accounts(budget: Budget) -> list[Account]:
    """Every account that the document names; runs are not among them."""
    accounts = [Account(TENANT, TENANT, budget.tenant)]
    for team in budget.teams:
        path = f"{TENANT}/team:{team.name}"
        accounts.append(Account(path, path, team.limits))
        for workflow in team.workflows.values():
            inner = f"{path}/workflow:{workflow.name}"
            accounts.append(Account(inner, inner, workflow.limits))
    return accounts


def is_run(path: str) -> bool:
    """Whether an account of the ledger is a run's."""
    return "/run:" in path


def workflow_of(path: str) -> str:
    """The workflow's account of a run's."""
    return path.rpartition("/run:")[0]


class Periods:
    """The periods that one UTC day lies in; made once a day."""

    __slots__ = ("_midnight", "_names", "day", "days", "number")

    def __init__(self, number: int) -> None:
        """`number`: of the day, counted from the Unix epoch's."""
        self.number = number
        self._midnight = datetime.fromtimestamp(number * _DAY_SECONDS, UTC)
        self.days = tuple(f"{self._midnight - back * _DAY:%Y-%m-%d}" for back in range(RUN_DAYS))
        """The days that a run's sum is made of, today first."""
        self.day = self.days[0]
        self._names = {"day": self.day, "month": f"{self._midnight:%Y-%m}", "total": "total"}

    @classmethod
    def at(cls, now_ns: int) -> Periods:
        """Those of a wall clock's nanoseconds since the Unix epoch."""
        return cls(now_ns // _DAY_NS)

    def hold(self, now_ns: int) -> bool:
        """Whether that moment is in them."""
        return now_ns // _DAY_NS == self.number

    def name(self, per: Period) -> str:
        """As the ledger names it: "2026-11-26", "2026-11" or "total"."""
        return self._names[per]

    def seconds_left(self, per: Period, now_ns: int) -> float | None:
        """From a moment until the next period begins; None: there is none."""
        if per == "total":
            return None
        begins = self._midnight + _DAY
        if per == "month":
            begins = (self._midnight.replace(day=1) + 32 * _DAY).replace(day=1)
        return begins.timestamp() - now_ns / 1e9

    def over(self, period: str) -> bool:
        """Whether nothing asks for that period's sums any more.

        Days are kept as long as runs are counted by them, months until they end.
        """
        if period == "total":
            return False
        oldest = self.days[-1] if len(period) > len("2026-11") else self._names["month"]
        return period < oldest
