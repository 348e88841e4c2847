"""Reuse: the completion cache's place on the decision path."""

from __future__ import annotations

from . import bodies
from .cache import Cache, CachedAnswer
from .cached import Completion
from .calls import GenerateCall
from .jobs import Answer
from .plan import Choice, Plan
from .underway import Underway


async def kept_answer(cache: Cache | None, decision: Underway, plan: Plan) -> Answer | None:
    """The first choice's kept answer to this request."""
    call = decision.call
    if cache is None or decision.release.policy.cache is None:
        return None
    if not plan.choices or not isinstance(call, GenerateCall):
        return None
    first = plan.choices[0]
    assert first.request is not None
    if first.obligations.approvals:
        return None  # people approve one answer, not all that are alike
    found = await cache.lookup(decision.release, call, first.request, first.info, _guards_of(first))
    return None if found is None else _again(found, first)


async def keep(cache: Cache, decision: Underway, call: GenerateCall) -> None:
    """Keep the answer for the next one who asks the same, where it is a model's own."""
    answer, choice = decision.answer, decision.choice
    if decision.release.policy.cache is None or answer is None or choice is None:
        return
    if answer.cache or answer.degraded:
        return
    assert choice.request is not None
    retention = decision.entry.retention
    if retention is not None and retention.days == 0:
        return  # nothing of it is to stay
    completion = Completion(
        answer.text,
        answer.finish,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.tool_calls,
    )
    await cache.keep(
        decision.release,
        call,
        choice.request,
        choice.info,
        completion,
        _guards_of(choice),
        most_seconds=None if retention is None else retention.days * 86_400,
    )


def _guards_of(choice: Choice) -> tuple[str, ...]:
    """What stood between an answer and its caller: another caller's answer was not held to it."""
    return (*choice.obligations.validators, *choice.obligations.redactions)


def _again(cached: CachedAnswer, choice: Choice) -> Answer:
    """A kept answer, given once more: no token was computed for it."""
    kept = cached.completion
    made = kept.tool_calls
    return Answer(
        finish=kept.finish,
        output=bodies.spoken(kept.text, made) if made else kept.text,
        info=choice.info,
        prompt_tokens=kept.prompt_tokens,
        completion_tokens=kept.completion_tokens,
        text=kept.text,
        tool_calls=made,
        cache=cached.cache,
        similarity=cached.similarity,
    )
