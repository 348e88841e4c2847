"""Reads a document of kind Budget: what a tenant, its teams, workflows and runs may spend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from exclave_policy.fields import NAME, ROLE, Fields
from exclave_policy.model import ANY
from exclave_policy.source import Node, Report, Scalar, Sequence

Period: TypeAlias = Literal["day", "month", "total"]
"""How long an account's sum grows before it starts anew, by UTC."""

PERIODS: tuple[Period, ...] = ("day", "month", "total")
MAX_TOKENS = 2**53 - 1
"""Largest limit in tokens."""
MAX_TEAMS = 256
MAX_WORKFLOWS = 256
"""Most workflows of one team."""
MICRO = 1_000_000
"""Parts of a currency's unit in which amounts are counted."""

_MONEY = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([0-9]{1,6}))?")
_MONEY_SHAPE = 'write an amount in quotes, such as "40" or "12.50": at most six decimals'
_CURRENCY = re.compile(r"[A-Z]{3}")
_LIMITS = ("tokens", "money", "per")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may spend in each of its periods."""

    tokens: int | None
    """Prompt and answer together; None: counted, not limited."""
    money_micro: int | None
    """Millionths of the budget's currency; None: counted, not limited."""
    per: Period
    line: int = field(default=0, compare=False)
    """Where it is written; as in the next three."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow of a team."""

    name: str
    limits: Limits
    run: Limits | None = None
    """What each run of it may spend; None: runs have no account of their own."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Team:
    """Callers whose key has one of `roles`."""

    name: str
    roles: frozenset[str]
    """`ANY` in it: every caller."""
    limits: Limits
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    workflows_only: bool = False
    """Requests that name none of `workflows` are refused."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Budget:
    """One document of kind Budget."""

    currency: str
    """ISO 4217; "" when the document limits no money."""
    tenant: Limits
    teams: tuple[Team, ...] = ()
    teams_only: bool = False
    """Callers who are in no team are refused."""
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def team_of(self, roles: Iterable[str]) -> Team | None:
        """The first team that a caller with these roles belongs to."""
        held = {*roles, ANY}
        return next((team for team in self.teams if not held.isdisjoint(team.roles)), None)


def read_budget(top: Fields, spec: Node, text: str, report: Report) -> Budget | None:
    """The budget that `spec` describes; None when faults were reported.

    The header and the metadata are read by whoever knows the kind (`document`).
    """
    before = len(report.problems) + report.dropped
    known = ("currency", "tenant", "teams", "teams_only")
    fields = Fields(spec, "spec", report, known=known, required=("tenant",))
    currency = _currency(fields)
    reader = _Reader(report)
    tenant = reader.account(fields, "tenant")
    teams = reader.teams(fields)
    if reader.money is not None and fields.get("currency") is None:
        fix = 'add spec.currency, such as "EUR"'
        report.add(reader.money, "spec", "an amount of money, and no currency", fix)
    teams_only = fields.flag("teams_only")
    node = fields.get("teams_only")
    if teams_only and not teams and node is not None:
        fields.wrong(node, "teams_only", "there is no team", "list one in spec.teams")
    if len(report.problems) + report.dropped != before:
        return None
    return Budget(currency, tenant, teams, teams_only, file=report.file, line=top.node.line)


def _currency(fields: Fields) -> str:
    node = fields.get("currency")
    if node is None:
        return ""
    if isinstance(node, Scalar) and node.kind == "string" and _CURRENCY.fullmatch(node.value):
        return node.value
    fix = 'use an ISO 4217 code in capitals, such as "EUR"'
    fields.wrong(node, "currency", "this is not the code of a currency", fix)
    return ""


class _Reader:
    """Reads accounts, and remembers whether one of them limits money."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.money: Node | None = None
        """The first amount of money that the document names."""

    def account(self, parent: Fields, name: str) -> Limits:
        """The tenant's account, which must limit something."""
        node = parent.get(name)
        if node is None:
            return Limits(None, None, "total")
        fields = Fields(node, parent.at(name), self._report, known=_LIMITS)
        return self._limits(fields, needed=True)

    def teams(self, parent: Fields) -> tuple[Team, ...]:
        teams: list[Team] = []
        known = ("name", "roles", *_LIMITS, "workflows", "workflows_only")
        for fields in self._each(parent, "teams", MAX_TEAMS, known, ("name", "roles")):
            name = fields.word("name", NAME)
            roles = frozenset(i.value for i in fields.names("roles", shape=ROLE, wildcard=True))
            workflows = self._workflows(fields)
            only = fields.flag("workflows_only")
            node = fields.get("workflows_only")
            if only and not workflows and node is not None:
                fix = "list one in workflows"
                fields.wrong(node, "workflows_only", "there is no workflow", fix)
            limits = self._limits(fields, needed=not workflows)
            found = MappingProxyType(workflows)
            teams.append(Team(name, roles, limits, found, only, line=fields.node.line))
            self._once(fields, name, [team.name for team in teams[:-1]])
        return tuple(teams)

    def _workflows(self, parent: Fields) -> dict[str, Workflow]:
        workflows: dict[str, Workflow] = {}
        known = ("name", *_LIMITS, "run")
        for fields in self._each(parent, "workflows", MAX_WORKFLOWS, known, ("name",)):
            name = fields.word("name", NAME)
            run = self._run(fields)
            self._once(fields, name, workflows)
            limits = self._limits(fields, needed=run is None)
            workflows[name] = Workflow(name, limits, run, line=fields.node.line)
        return workflows

    def _run(self, parent: Fields) -> Limits | None:
        """A run's limits: they hold for the whole run, so there is no `per`."""
        node = parent.get("run")
        if node is None:
            return None
        fields = Fields(node, parent.at("run"), self._report, known=_LIMITS[:2])
        tokens, money = fields.whole("tokens", 0, MAX_TOKENS), self._money(fields)
        if fields.get("tokens") is None and fields.get("money") is None:
            self._report.add(node, fields.path, "nothing is limited", "add 'tokens' or 'money'")
        return Limits(tokens, money, "total", node.line)

    def _limits(self, fields: Fields, *, needed: bool) -> Limits:
        tokens, money = fields.whole("tokens", 0, MAX_TOKENS), self._money(fields)
        limited = fields.get("tokens") is not None or fields.get("money") is not None
        per = fields.get("per")
        if needed and not limited:
            fix = "add 'tokens' or 'money'"
            self._report.add(fields.node, fields.path, "nothing is limited", fix)
        elif limited and per is None:
            fix = "add 'per': day, month or total"
            self._report.add(fields.node, fields.path, "a limit, and no period", fix)
        elif per is not None and not limited:
            fields.wrong(per, "per", "a period, and no limit", "add 'tokens' or 'money'")
        given = fields.choice("per", PERIODS)
        period: Period = next((one for one in PERIODS if one == given), "total")
        return Limits(tokens, money, period, fields.node.line)

    def _money(self, fields: Fields) -> int | None:
        """An amount in millionths."""
        node = fields.get("money")
        if node is None:
            return None
        self.money = self.money or node
        if not isinstance(node, Scalar) or node.kind != "string":
            fields.wrong(node, "money", "an amount must be text", _MONEY_SHAPE)
            return None
        found = _MONEY.fullmatch(node.value)
        if found is None:
            fields.wrong(node, "money", "this is not an amount of money", _MONEY_SHAPE)
            return None
        return int(found[1]) * MICRO + int((found[2] or "").ljust(6, "0"))

    def _each(
        self,
        parent: Fields,
        name: str,
        limit: int,
        known: tuple[str, ...],
        required: tuple[str, ...],
    ) -> Iterable[Fields]:
        node = parent.get(name)
        if node is None:
            return
        if not isinstance(node, Sequence):
            parent.wrong(node, name, f"expected a list of {name}", "start each with '- name:'")
        elif not node.items:
            parent.wrong(node, name, "the list is empty", "name at least one, or leave it out")
        elif len(node.items) > limit:
            message = f"{len(node.items)} entries are too many"
            parent.wrong(node, name, message, f"at most {limit}")
        else:
            for place, item in enumerate(node.items):
                path = f"{parent.at(name)}[{place}]"
                yield Fields(item, path, self._report, known=known, required=required)

    def _once(self, fields: Fields, name: str, taken: Iterable[str]) -> None:
        """Names are the accounts' own: two of one name would share a sum."""
        node = fields.get("name")
        if name and node is not None and name in taken:
            fields.wrong(node, "name", f"{name!r} is taken", "choose another name")
