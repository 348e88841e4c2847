"""Lints: what is admitted, and most likely not meant. Each is certain of what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exclave_policy.conditions import Condition
from exclave_policy.errors import Problem
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.budgets import Budget, Limits
from exclave_policy.kinds.rules import Rule
from exclave_policy.model import ACTIONS, ANY, RESOURCES
from exclave_policy.schema import Value
from exclave_policy.workbench.domain import MAX_POINTS, Domain, domain_of, holds
from exclave_policy.workbench.implications import Implications

_DATA_CLASS = "request.data_class"
_COVERED = ("roles", "actions", "models", "data_classes")


def lint(policy: CompiledPolicy) -> list[Problem]:
    """Everything that an author should look at again, in the order of the text."""
    found = [
        *_rules(policy),
        *_shadowed(policy),
        *_approvals(policy),
        *_unused(policy),
        *_routes(policy),
        *_budgets(policy.budget),
    ]
    return sorted(found)


# --- rules ---------------------------------------------------------------------------------------


def _rules(policy: CompiledPolicy) -> Iterator[Problem]:
    for rule in policy.rules:
        if rule.when is not None and _never(rule, rule.when):
            fix = "correct the condition, or remove the rule"
            yield _at(rule, "when", f"rule {rule.id} can never match", fix)
        if rule.effect == "allow" and not _says_what_data(rule):
            message = f"rule {rule.id} allows without saying which data it is for"
            fix = 'name data_classes; ["*"] says any, on purpose'
            yield _at(rule, "data_classes", message, fix)


def _says_what_data(rule: Rule) -> bool:
    return bool(rule.data_classes) or (rule.when is not None and _DATA_CLASS in rule.when.names)


def _never(rule: Rule, when: Condition) -> bool:
    """Whether the condition holds for no request that the rule is about."""
    domain = _narrowed(domain_of(when), rule)
    if not domain.complete:
        return False
    return not any(holds(when, point) is not False for point in domain.points())


def _narrowed(domain: Domain, rule: Rule) -> Domain:
    """Only the values with which the rule is about a request."""
    values: dict[str, Iterable[Value]] = dict(domain.values)
    for name, names in (
        ("request.action", rule.actions),
        ("request.model", rule.models),
        (_DATA_CLASS, rule.data_classes),
    ):
        if name in values and names and ANY not in names:
            values[name] = sorted(names)
    roles = "subject.roles"
    if roles in values and rule.roles and ANY not in rule.roles:
        listed = [each for each in values[roles] if isinstance(each, list)]
        held = [each for each in listed if not rule.roles.isdisjoint(each)]
        values[roles] = held + [
            sorted({*each, role}) for each in listed for role in sorted(rule.roles)
        ]
    narrowed = Domain({name: list(each) for name, each in values.items()}, domain.complete)
    return narrowed if narrowed.size <= 2 * MAX_POINTS else Domain(narrowed.values, False)


# --- shadows -------------------------------------------------------------------------------------


def _shadowed(policy: CompiledPolicy) -> Iterator[Problem]:
    denies = [r for r in policy.rules if r.effect == "deny" and r.mode == "enforce"]
    implications = Implications()
    for rule in policy.rules:
        if rule.effect != "allow":
            continue
        for deny in denies:
            if _covers(deny, rule) and implications.hold(rule.when, deny.when):
                message = f"rule {rule.id} never allows: rule {deny.id} denies all of it"
                place = f"{deny.file} line {deny.line}"
                yield _at(rule, "", message, f"see {place}; remove one of them, or narrow the deny")
                break


def _covers(deny: Rule, allow: Rule) -> bool:
    """Whether `deny` is about every request that `allow` is about, but for conditions."""
    for name in _COVERED:
        if not _includes(getattr(deny, name), getattr(allow, name)):
            return False
    return all(
        _includes(getattr(deny, name), getattr(allow, name))
        for action, name in RESOURCES.items()
        if action in (allow.actions or ACTIONS)
    )


def _includes(wide: frozenset[str], narrow: frozenset[str]) -> bool:
    if not wide or ANY in wide:
        return True
    return bool(narrow) and ANY not in narrow and narrow <= wide


# --- other documents -----------------------------------------------------------------------------


def _approvals(policy: CompiledPolicy) -> Iterator[Problem]:
    held: set[str] = set().union(*(rule.roles for rule in policy.rules)) | policy.roles
    for approval in policy.approvals.values():
        missing = sorted(approval.roles - held)
        if ANY not in held and len(missing) == len(approval.roles):
            message = f"approval {approval.name} waits for a role that no rule and no list names"
            fix = f"declare it in spec.roles of a Policy: {', '.join(missing)}"
            yield Problem(approval.file, approval.line, 1, "spec.roles", message, fix)


def _unused(policy: CompiledPolicy) -> Iterator[Problem]:
    asked = [rule.obligations for rule in policy.rules]
    for kind, documents, names in (
        ("validator", policy.validators, {n for each in asked for n in each.validators}),
        ("redaction", policy.redactions, {n for each in asked for n in each.redactions}),
        ("approval", policy.approvals, {n for each in asked for n in each.approvals}),
    ):
        for document in documents.values():
            if document.name not in names:
                message = f"no rule obliges to {kind} {document.name}"
                fix = "name it in a rule's obligations, or remove it"
                yield Problem(document.file, document.line, 1, "metadata.name", message, fix)


def _routes(policy: CompiledPolicy) -> Iterator[Problem]:
    allowing = [rule for rule in policy.rules if rule.effect == "allow"]
    for route in policy.routes.values():
        for path, name in (
            ("metadata.name", route.name),
            *((f"spec.targets[{i}].model", each.model) for i, each in enumerate(route.targets)),
        ):
            if not any(
                (ANY in rule.models or name in rule.models)
                and not rule.actions.isdisjoint(route.actions)
                for rule in allowing
            ):
                message = f"no rule allows {', '.join(sorted(route.actions))} on {name}"
                fix = "allow it, or remove it from the route"
                yield Problem(route.file, route.line, 1, path, message, fix)


def _budgets(budget: Budget | None) -> Iterator[Problem]:
    if budget is None:
        return
    for i, team in enumerate(budget.teams):
        path = f"spec.teams[{i}]"
        yield from _larger(
            budget, path, f"team {team.name}", team.limits, "the tenant", budget.tenant
        )
        for name, workflow in team.workflows.items():
            inner = f"{path}.workflows"
            yield from _larger(
                budget, inner, f"workflow {name}", workflow.limits, f"team {team.name}", team.limits
            )
            if workflow.run is not None:
                yield from _larger(
                    budget, inner, f"a run of {name}", workflow.run, "its workflow", workflow.limits
                )


def _larger(
    budget: Budget, path: str, what: str, inner: Limits, whose: str, outer: Limits
) -> Iterator[Problem]:
    run = what.startswith("a run")
    if inner.per != outer.per and not run:
        return
    for unit, mine, theirs in (
        ("tokens", inner.tokens, outer.tokens),
        ("money", inner.money_micro, outer.money_micro),
    ):
        if mine is not None and theirs is not None and mine > theirs:
            message = f"{what} may spend more {unit} than {whose}"
            fix = "the smaller limit holds: lower this one, or raise the other"
            yield Problem(budget.file, budget.line, 1, path, message, fix)


def _at(rule: Rule, field: str, message: str, fix: str) -> Problem:
    return Problem(rule.file, rule.line, 1, field, message, fix)
