"""Spans: what a trace may know of a decision: signed names, fixed words, counts."""

from __future__ import annotations

from typing import TypeVar

from exclave_agent.ports import NoSpan, Span

from .authorize import action_of
from .calls import Call
from .contender import Contender
from .entry import Entry
from .jobs import Answer
from .plan import Plan

E = TypeVar("E")


def tell(span: Span, call: Call, entry: Entry, answer: Answer | None) -> None:
    """How a decision ended; `answer`: once it is complete."""
    if isinstance(span, NoSpan):
        return
    model, route = entry.names
    if answer is not None and answer.info is not None:
        model = answer.info.name
    span.set("exclave.decision", call.decision)
    span.set("exclave.action", action_of(call))
    span.set("exclave.model", model)
    span.set("exclave.route", route)
    span.set("exclave.rule", entry.rule)
    span.set("exclave.outcome", entry.outcome)
    if answer is not None:
        span.set("exclave.tokens_in", answer.prompt_tokens)
        span.set("exclave.tokens_out", answer.completion_tokens)
        span.set("exclave.cached_tokens", answer.cached_tokens)
        span.set("exclave.cache", answer.cache)
        span.set("exclave.degraded", answer.degraded)


def measure(span: Span, plan: Plan, winner: Contender[E] | None) -> None:
    """Where the time of the attempts went."""
    if isinstance(span, NoSpan):
        return
    span.set("exclave.attempts", sum(each.asked for each in plan.attempts))
    if winner is not None:
        timing = winner.answer.timing
        span.set("exclave.model", winner.choice.info.name)
        span.set("exclave.queued_us", timing.queued_us)
        span.set("exclave.prefill_us", timing.prefill_us)
        span.set("exclave.decode_us", timing.decode_us)
