"""Authorize: ask the signed policy whether this caller may do this."""

from __future__ import annotations

from exclave_agent.errors import PolicyDenied
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Decision, Request

from .calls import Call, EmbedCall, GenerateCall, InferCall, RerankCall

_HOUR_NS = 3600 * 1_000_000_000
_THURSDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


def action_of(call: Call) -> str:
    """The policy's name for what is asked: one of `exclave_policy.model.ACTIONS`."""
    if isinstance(call, GenerateCall):
        return call.action
    if isinstance(call, RerankCall):
        return "rerank"
    return "embed" if isinstance(call, EmbedCall) else "infer"


def authorize(policy: CompiledPolicy, call: Call, now_ns: int, model: str = "") -> Decision:
    """The policy's answer. The policy sees metadata only, and the authenticated caller's
    key id as subject, never a name that the caller chose.

    `model`: a target of the route that was asked for; "": what was asked for itself. Returns
    the decision whether allowed or not: `enforce` refuses.
    """
    return policy.evaluate(request_of(call, now_ns, model))


def request_of(call: Call, now_ns: int, model: str = "") -> Request:
    """The call as policies see it."""
    hours = now_ns // _HOUR_NS
    generate = call if isinstance(call, GenerateCall) else None
    return Request(
        subject=call.caller.key_id,
        roles=call.caller.roles,
        action=action_of(call),
        model=model or call.model,
        data_class=call.data_class,
        max_tokens=generate.max_tokens if generate else None,
        stream=generate.stream if generate else False,
        message_count=len(generate.messages) if generate else 0,
        prompt_bytes=prompt_bytes(call),
        hour=hours % 24,
        weekday=(hours // 24 + _THURSDAY) % 7,
    )


def enforce(verdict: Decision, decision: str) -> None:
    """Raises: PolicyDenied naming the rule."""
    if not verdict.allowed:
        raise PolicyDenied(
            f"the policy denied this request (rule {verdict.rule}): {verdict.reason}",
            rule=verdict.rule,
            decision_id=decision,
        )


def prompt_bytes(call: Call) -> int:
    """Size of everything the caller sent to the model; texts in UTF-8."""
    if isinstance(call, InferCall):
        return sum(len(tensor.data) for tensor in call.inputs)
    if isinstance(call, EmbedCall):
        return sum(len(text.encode()) for text in call.texts)
    if isinstance(call, RerankCall):
        return sum(len(text.encode()) for text in (call.query, *call.documents))
    size = len(call.prompt.encode()) if call.prompt is not None else 0
    for message in call.messages:
        size += len(message.content.encode())
        size += sum(
            len(made.name.encode()) + len(made.arguments.encode()) for made in message.tool_calls
        )
    for tool in call.tools:
        size += sum(len(text.encode()) for text in (tool.name, tool.description, tool.parameters))
    return size
