"""What can only be said of a policy beside the models of its release: whether they are there, do
what is asked of them, and have the prices that are counted in.

One list for both: the centre checks before signing, the agent before it activates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds import caching, routes
from exclave_policy.kinds.validators import JudgeCheck


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one model of a release."""

    actions: frozenset[str]
    """What it serves; where that is not known before it is loaded, the most that it can serve."""
    remote: bool = False
    currency: str | None = None
    """Of its price; "": it has none; None: not known here."""

    def priced(self, currency: str) -> bool:
        """Whether it has, or may have, a price in that currency."""
        return self.currency is None or self.currency == currency


def problems_of(policy: CompiledPolicy, models: Mapping[str, Known]) -> list[str]:
    """Why a policy cannot stand beside these models; empty: it can."""
    actions = {name: model.actions for name, model in models.items()}
    local = {name: model.actions for name, model in models.items() if not model.remote}
    return [
        *routes.problems_of(policy.routes, actions),
        *caching.problems_of(policy.cache, local),
        *_without_judge(policy, local),
        *_without_finder(policy, local),
    ]


def _judges(policy: CompiledPolicy) -> Iterator[tuple[str, str]]:
    """Names of validators and of the models that judge for them."""
    for validator in policy.validators.values():
        for check in validator.checks:
            if isinstance(check, JudgeCheck):
                yield validator.name, check.model


def _without_judge(policy: CompiledPolicy, local: Mapping[str, frozenset[str]]) -> list[str]:
    return [
        f"validator {name}: judge {model} is no model of the release that chats on the machine"
        for name, model in _judges(policy)
        if "chat" not in local.get(model, ())
    ]


def _without_finder(policy: CompiledPolicy, local: Mapping[str, frozenset[str]]) -> list[str]:
    return [
        f"redaction {each.name}: entities {each.entities} is no model of the release that infers "
        "on the machine"
        for each in policy.redactions.values()
        if each.entities and "infer" not in local.get(each.entities, ())
    ]


def unpriced(policy: CompiledPolicy, models: Mapping[str, Known]) -> list[str]:
    """What would be refused or skipped for good because a price is missing; empty: nothing.

    For the centre only: an agent refuses the single request, and no release that worked before.
    """
    return _beyond_the_budget(policy, models) + _beyond_the_routes(policy, models)


def _beyond_the_budget(policy: CompiledPolicy, models: Mapping[str, Known]) -> list[str]:
    """Where the tenant's own account limits money, every request needs a price."""
    budget = policy.budget
    if budget is None or budget.tenant.money_micro is None:
        return []
    # Models that only help with others' requests may be asked by nobody.
    spared = {model for _, model in _judges(policy)}
    spared |= {each.entities for each in policy.redactions.values()}
    if policy.cache is not None and policy.cache.semantic is not None:
        spared.add(policy.cache.semantic.embed_model)
    return [
        f"budget: the tenant's money is limited in {budget.currency}, and model {name} has no "
        "price in it: every request to it would be refused"
        for name, model in sorted(models.items())
        if not model.priced(budget.currency) and name not in spared
    ]


def _beyond_the_routes(policy: CompiledPolicy, models: Mapping[str, Known]) -> list[str]:
    return [
        f"route {route.name}: max_cost is in {target.limits.currency}, and model {target.model} "
        "has no price in it: it would never be asked"
        for route in policy.routes.values()
        for target in route.targets
        if target.limits.cost_micro is not None
        and target.model in models
        and not models[target.model].priced(target.limits.currency)
    ]
