"""Route: which models of the active release may answer this call, in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exclave_agent.errors import PolicyDenied, TooManyTokens, UnknownModel
from exclave_agent.ports import (
    ActiveRelease,
    BreakerView,
    Generate,
    ModelInfo,
    Price,
    Sampling,
)
from exclave_policy.conditions import ConditionFailed, bind
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.routes import Limits, Retry, Route, Target
from exclave_policy.model import Decision
from exclave_policy.schema import activation

from .authorize import UNSEEN, Seen, action_of, authorize, enforce, request_of
from .breaker import Breaker
from .budget import default_tokens
from .calls import Call, GenerateCall
from .grants import NOTHING_MORE, grants
from .plan import Choice, Plan
from .retry import RetryBudget

ENDPOINT_RULE = "endpoint"
"""Names the endpoint document in a denial: not a rule of the policy, and signed like one."""


class Router:
    """Makes plans, and keeps what must outlive a decision: breakers and retry budgets. They
    survive releases; a target whose model has a new digest starts closed."""

    def __init__(self) -> None:
        self._policy: CompiledPolicy | None = None
        self._breakers: dict[tuple[str, str, str], Breaker] = {}
        self._retries: dict[str, RetryBudget] = {}
        self._own: dict[str, Route] = {}
        """Routes of models that were asked for by their own names."""

    def plan(
        self,
        release: ActiveRelease,
        call: Call,
        asked: Decision,
        wall_ns: int,
        now: float,
        seen: Seen = UNSEEN,
    ) -> Plan:
        """Who may answer `call`. `asked`: the policy's word on the name asked for, an allowing
        one. `now`: of `Clock.monotonic`, seconds.

        Raises: UnknownModel, whose text never repeats the name, which is the caller's;
        TooManyTokens and PolicyDenied of a model that was asked for by its own name.
        """
        if release.policy is not self._policy:
            self._obey(release)
        route = release.policy.routes.get(call.model)
        if route is None:
            return self._implicit(release, call, asked, wall_ns, seen)
        if action_of(call) not in route.actions:
            raise _not_served(route.actions, call, "route")
        retries = self._retries[route.name]
        plan = Plan(route, False, retries)
        judge = _Judge(release, call, asked, wall_ns, seen)
        models = release.models.models()
        for place, target in enumerate(route.targets):
            info = models.get(target.model)
            outcome = judge.against(target, info)
            if outcome or info is None:
                plan.skip(place, outcome)
                continue
            allowed = judge.granted
            choice = Choice(
                target,
                info,
                self._breaker(route, info),
                place,
                grants=allowed.grants,
                obligations=allowed.obligations,
            )
            outcome = self._unready(choice, now)
            if not outcome and isinstance(call, GenerateCall):
                try:
                    choice.request = request_for(call, info, allowed.max_tokens, target.limits)
                except TooManyTokens as error:
                    plan.too_long, outcome = error, "too_long"
            if outcome:
                plan.skip(place, outcome)
            else:
                plan.choices.append(choice)
        return plan

    def views(self, now: float) -> list[BreakerView]:
        """Every breaker of the routes now."""
        return [
            BreakerView(route, target, each.state(now), each.reason, each.opens_in(now))
            for (route, target, _), each in self._breakers.items()
        ]

    def _implicit(
        self, release: ActiveRelease, call: Call, asked: Decision, wall_ns: int, seen: Seen
    ) -> Plan:
        """The plan of a model that was asked for by its own name: that model, once."""
        info = route(release, call)
        if info.data_classes is not None and call.data_class not in info.data_classes:
            raise PolicyDenied(
                "data of this class may not be sent to this model: its endpoint is not permitted "
                "for it",
                rule=ENDPOINT_RULE,
                decision_id=call.decision,
            )
        granted = grants(release.policy, call, wall_ns, seen, info)
        if granted.denied is not None:
            enforce(granted.denied, call.decision, granted.what)
        allowed = granted.joined(release.policy, (asked,))
        own = self._own.get(info.name)
        if own is None:
            own = Route(info.name, "", "", info.actions, (Target(info.name),), _ONCE, None)
            self._own[info.name] = own
        choice = Choice(
            own.targets[0], info, _ALWAYS, grants=allowed.grants, obligations=allowed.obligations
        )
        if isinstance(call, GenerateCall):
            choice.request = request_for(call, info, allowed.max_tokens)
        return Plan(own, True, _NEVER, [choice])

    def _unready(self, choice: Choice, now: float) -> str:
        """Why a permitted target is not asked now, or ""."""
        if not choice.breaker.admits(now):
            return "open"
        limit = choice.target.limits.latency_ms
        if limit is not None:
            p95 = choice.breaker.latency(now)
            if p95 is not None and p95 * 1e3 > limit:
                return "slow"
        return ""

    def _breaker(self, route: Route, info: ModelInfo) -> Breaker:
        key = (route.name, info.name, info.sha256)
        found = self._breakers.get(key)
        if found is None:
            found = self._breakers[key] = Breaker(route.breaker)
        return found

    def _obey(self, release: ActiveRelease) -> None:
        """Take over a release's routes; forget what it no longer has."""
        self._policy = release.policy
        self._own = {}
        routes, models = release.policy.routes, release.models.models()
        kept: dict[tuple[str, str, str], Breaker] = {}
        for each in routes.values():
            for target in each.targets:
                info = models.get(target.model)
                if info is None:
                    continue
                key = (each.name, info.name, info.sha256)
                kept[key] = self._breakers.get(key) or Breaker(each.breaker)
                kept[key].obey(each.breaker)
        self._breakers = kept
        former, self._retries = self._retries, {}
        for each in routes.values():
            bucket = self._retries[each.name] = former.get(each.name) or RetryBudget(each.retry)
            bucket.obey(each.retry)


_ONCE = Retry(ratio=0.0, burst=0, attempts=1)
_NEVER = RetryBudget(_ONCE)
_ALWAYS = Breaker(None)
"""Of models that are asked for by their own names: neither changes."""


class _Judge:
    """Whether targets are permitted for one call, whatever their state."""

    def __init__(
        self, release: ActiveRelease, call: Call, asked: Decision, wall_ns: int, seen: Seen
    ) -> None:
        self._policy = release.policy
        self._call = call
        self._asked = asked
        self._seen = seen
        self._wall_ns = wall_ns
        self._bound: Any = None
        self.granted = NOTHING_MORE
        """What the policy allows, and asks for, on the last target judged."""

    def against(self, target: Target, info: ModelInfo | None) -> str:
        """What speaks against a target, or ""."""
        call = self._call
        if info is None:
            return "absent"
        if action_of(call) not in info.actions:
            return "action"
        verdict = authorize(self._policy, call, self._wall_ns, self._seen, info)
        if not verdict.allowed:
            return "denied"
        granted = grants(self._policy, call, self._wall_ns, self._seen, info)
        if granted.denied is not None:
            return "denied"
        self.granted = granted.joined(self._policy, (self._asked, verdict))
        if info.data_classes is not None and call.data_class not in info.data_classes:
            return "data_class"
        if not self._holds(target):
            return "condition"
        return "" if affordable(target.limits, info.price) else "cost"

    def _holds(self, target: Target) -> bool:
        """A condition that has no answer for this request does not hold."""
        if target.when is None:
            return True
        try:
            if self._bound is None:
                self._bound = bind(activation(request_of(self._call, self._wall_ns, self._seen)))
            return target.when.holds(self._bound)
        except ConditionFailed:
            return False


def affordable(limits: Limits, price: Price | None) -> bool:
    """Whether a price keeps to a target's limit; one that is not known, or is in another
    currency, does not."""
    if limits.cost_micro is None:
        return True
    if price is None or price.currency != limits.currency:
        return False
    return max(price.input_micro, price.output_micro) <= limits.cost_micro


def route(release: ActiveRelease, call: Call) -> ModelInfo:
    """The model of that name. Raises: UnknownModel; its text never repeats the name, which
    is the caller's."""
    info = release.models.models().get(call.model)
    if info is None:
        raise UnknownModel("the active release has no model of that name: see GET /v1/models")
    if action_of(call) not in info.actions:
        raise _not_served(info.actions, call, "model")
    return info


def _not_served(actions: frozenset[str], call: Call, what: str) -> UnknownModel:
    serves = ", ".join(sorted(actions))
    return UnknownModel(f'the {what} does not serve "{action_of(call)}": it serves {serves}')


def request_for(
    call: GenerateCall, info: ModelInfo, cap: int | None, limits: Limits | None = None
) -> Generate:
    """What the runtime is asked; `cap`: most tokens of answer by the policy.

    Raises: TooManyTokens when more was asked for than the cap, or when the answer alone would
    overflow the model's context; the runtime counts the prompt as well.
    """
    tokens = call.max_tokens
    if tokens is None:
        tokens = default_tokens(cap, info.context_tokens)
    elif cap is not None and tokens > cap:
        raise TooManyTokens(
            f"max_tokens is {tokens}, and the policy allows at most {cap}: ask for less",
            code="max_tokens_exceeded",
        )
    if info.context_tokens and tokens > info.context_tokens:
        raise TooManyTokens(
            f"max_tokens is {tokens}, and the model's context is {info.context_tokens} tokens, "
            "prompt included: ask for less"
        )
    top = call.top_logprobs
    if top is None and limits is not None and limits.confidence is not None:
        top = 0  # the chosen tokens' own are enough to tell how sure it was
    return Generate(
        model=info.name,
        messages=call.messages,
        prompt=call.prompt,
        sampling=_sampling(call, tokens, top),
        tools=call.tools,
        tool_choice=call.tool_choice,
        tool_name=call.tool_name,
        parallel_tool_calls=call.parallel_tool_calls,
        caller=call.caller.key_id,
        priority=call.priority,
        timeout=call.timeout,
    )


def _sampling(call: GenerateCall, tokens: int, top: int | None) -> Sampling:
    return Sampling(
        max_tokens=tokens,
        temperature=call.temperature,
        top_p=call.top_p,
        top_k=call.top_k,
        min_p=call.min_p,
        frequency_penalty=call.frequency_penalty,
        presence_penalty=call.presence_penalty,
        repeat_penalty=call.repeat_penalty,
        seed=call.seed,
        stop=call.stop,
        logit_bias=call.logit_bias,
        top_logprobs=top,
        json_schema=call.response_schema,
        grammar=call.grammar,
    )


def timed(request: Generate, seconds: float | None) -> Generate:
    """The same request with the time that is left for it."""
    return request if seconds is None else replace(request, timeout=max(seconds, 0.0))
