"""Authorize: ask the signed policy whether this caller may do this."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_agent.errors import PolicyDenied
from exclave_agent.ports import ModelInfo
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import NO_FACTS, Decision, Facts, Request

from .calls import Call, EmbedCall, GenerateCall, InferCall, RerankCall

_MINUTE_NS = 60 * 1_000_000_000
_MINUTES = 24 * 60
_THURSDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


def action_of(call: Call) -> str:
    """The policy's name for what is asked: one of `exclave_policy.model.ACTIONS`."""
    if isinstance(call, GenerateCall):
        return call.action
    if isinstance(call, RerankCall):
        return "rerank"
    return "embed" if isinstance(call, EmbedCall) else "infer"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the guards saw in a call, where a condition asks for it."""

    personal: tuple[str, ...] = ()
    injection: int = 0


UNSEEN = Seen()


def authorize(
    policy: CompiledPolicy,
    call: Call,
    now_ns: int,
    seen: Seen = UNSEEN,
    info: ModelInfo | None = None,
) -> Decision:
    """The policy's answer. The policy sees metadata only, and the authenticated caller's
    key id as subject, never a name that the caller chose.

    `info`: the model that this is about, the one asked for or a target of the route; None: a
    route itself, or a name that the release does not have. Returns the decision whether allowed
    or not: `enforce` refuses.
    """
    return policy.evaluate(request_of(call, now_ns, seen, info))


def request_of(
    call: Call, now_ns: int, seen: Seen = UNSEEN, info: ModelInfo | None = None
) -> Request:
    """The call as policies see it."""
    minutes = now_ns // _MINUTE_NS
    days = minutes // _MINUTES
    year, month, day = civil(days)
    generate = call if isinstance(call, GenerateCall) else None
    return Request(
        subject=call.caller.key_id,
        roles=call.caller.roles,
        action=action_of(call),
        model=call.model if info is None else info.name,
        data_class=call.data_class,
        max_tokens=generate.max_tokens if generate else None,
        stream=generate.stream if generate else False,
        schema=generate is not None and generate.response_schema is not None,
        message_count=len(generate.messages) if generate else 0,
        inputs=inputs_of(call),
        prompt_bytes=prompt_bytes(call),
        tools=tuple(tool.name for tool in generate.tools) if generate else (),
        priority=generate.priority if generate else "interactive",
        facts=NO_FACTS if info is None else facts_of(info),
        personal=seen.personal,
        injection=seen.injection,
        workflow=call.workflow,
        run=call.run,
        minute=minutes % 60,
        hour=minutes // 60 % 24,
        weekday=(days + _THURSDAY) % 7,
        day=day,
        month=month,
        year=year,
    )


def facts_of(info: ModelInfo) -> Facts:
    """What conditions see of a model."""
    return Facts(info.runtime, info.provider, info.remote, info.context_tokens)


def civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.

    Years begin in March here, so that a leap day ends one; 146097 days are 400 years.
    """
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    day = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, day


def enforce(verdict: Decision, decision: str, what: str = "this request") -> None:
    """`what`: a thing that is denied, in words that no caller chose.

    Raises: PolicyDenied naming the rule.
    """
    if not verdict.allowed:
        raise PolicyDenied(
            f"the policy denied {what} (rule {verdict.rule}): {verdict.reason}",
            rule=verdict.rule,
            decision_id=decision,
        )


def inputs_of(call: Call) -> int:
    """Messages, texts, documents or tensors."""
    if isinstance(call, RerankCall):
        return len(call.documents)
    if isinstance(call, EmbedCall):
        return len(call.texts)
    return len(call.inputs) if isinstance(call, InferCall) else len(call.messages)


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
