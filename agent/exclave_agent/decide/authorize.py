"""Authorize: ask the signed policy whether this caller may do this."""

from __future__ import annotations

from exclave_agent.errors import PolicyDenied
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Decision, Request

from .calls import Call, EmbedCall, GenerateCall, InferCall

_HOUR_NS = 3600 * 1_000_000_000
_THURSDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


def action_of(call: Call) -> str:
    """The policy's name for what is asked: "chat", "complete", "embed" or "infer"."""
    if isinstance(call, GenerateCall):
        return call.action
    return "embed" if isinstance(call, EmbedCall) else "infer"


def authorize(policy: CompiledPolicy, call: Call, now_ns: int) -> Decision:
    """The policy's answer. The policy sees metadata only, and the authenticated caller's
    key id as subject, never a name that the caller chose.

    Returns the decision whether allowed or not: `enforce` refuses.
    """
    hours = now_ns // _HOUR_NS
    generate = call if isinstance(call, GenerateCall) else None
    return policy.evaluate(
        Request(
            subject=call.caller.key_id,
            roles=call.caller.roles,
            action=action_of(call),
            model=call.model,
            data_class=call.data_class,
            max_tokens=generate.max_tokens if generate else None,
            stream=generate.stream if generate else False,
            message_count=len(generate.messages) if generate else 0,
            prompt_bytes=prompt_bytes(call),
            hour=hours % 24,
            weekday=(hours // 24 + _THURSDAY) % 7,
        )
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
    if call.prompt is not None:
        return len(call.prompt.encode())
    return sum(len(message.content.encode()) for message in call.messages)
