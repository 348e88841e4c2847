"""Grants: what a decision needs besides its model, each asked of the policy like the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from exclave_agent.ports import ModelInfo
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import NO_OBLIGATIONS, RESOURCES, Decision, Obligations, Request

from .authorize import Seen, request_of
from .calls import Call, GenerateCall

WORDS = {
    "call_tool": "a tool that this request offers",
    "use_endpoint": "sending this request to the model's endpoint",
    "use_secret": "the use of the secret of the model's endpoint",
}


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing besides the model that a decision may use, and by which rule."""

    action: str
    """Of `exclave_policy.model.RESOURCES`."""
    name: str
    """Of the tool, endpoint or secret; "" where it is the caller's text: a tool that no rule
    names."""
    rule: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be done with one model, all verdicts together."""

    grants: tuple[Grant, ...] = ()
    max_tokens: int | None = None
    """The smallest limit of all of them."""
    obligations: Obligations = NO_OBLIGATIONS
    """All of them."""


NOTHING_MORE = Allowed()


@dataclass(frozen=True, slots=True)
class Granted:
    """The policy's word on everything that one model needs for a call."""

    grants: tuple[Grant, ...] = ()
    verdicts: tuple[Decision, ...] = ()
    denied: Decision | None = None
    """The first denial: nothing may be asked then."""
    what: str = ""
    """What it denied, in words."""

    def joined(self, policy: CompiledPolicy, verdicts: Sequence[Decision]) -> Allowed:
        """With the verdicts on the name asked for and on the model."""
        caps = [
            each.max_tokens for each in (*verdicts, *self.verdicts) if each.max_tokens is not None
        ]
        obliged = [
            each.obligations
            for each in (*verdicts, *self.verdicts)
            if each.obligations is not NO_OBLIGATIONS
        ]
        return Allowed(self.grants, min(caps, default=None), policy.joined(obliged))


_NOTHING_NEEDED = Granted()


def grants(policy: CompiledPolicy, call: Call, now_ns: int, seen: Seen, info: ModelInfo) -> Granted:
    """Ask for each tool that the call offers, for a remote model's endpoint and for its secret.

    MUST be asked before anything of a call reaches a model that needs them.
    """
    tools = call.tools if isinstance(call, GenerateCall) else ()
    if not tools and not info.remote:
        return _NOTHING_NEEDED
    found: list[Grant] = []
    verdicts: list[Decision] = []
    for request in _needs(request_of(call, now_ns, seen, info), info):
        verdict = policy.evaluate(request)
        if not verdict.allowed:
            return Granted(denied=verdict, what=WORDS[request.action])
        verdicts.append(verdict)
        found.append(Grant(request.action, _signed(policy, request, verdict), verdict.rule))
    return Granted(tuple(found), tuple(verdicts))


def _needs(request: Request, info: ModelInfo) -> Iterator[Request]:
    for tool in dict.fromkeys(request.tools):
        yield replace(request, action="call_tool", resource=tool)
    if info.remote:
        yield replace(request, action="use_endpoint", resource=info.endpoint)
        if info.secret:
            yield replace(request, action="use_secret", resource=info.secret)


def _signed(policy: CompiledPolicy, request: Request, verdict: Decision) -> str:
    """The resource's name where a signed document has it: endpoints and secrets are of the
    release; a tool's is the caller's, unless the rule names it."""
    if request.action != "call_tool":
        return request.resource
    rule = policy.rule(verdict.rule)
    named = frozenset() if rule is None else getattr(rule, RESOURCES[request.action])
    return request.resource if request.resource in named else ""
