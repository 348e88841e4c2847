"""Cached: the forms in which requests are told apart, and answers are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exclave_agent.ports import Generate, ToolCall
from exclave_protocol.canonical import JsonValue, decode

from .bodies import decimal


@dataclass(frozen=True, slots=True)
class Completion:
    """A complete answer as it is kept."""

    text: str
    finish: str
    """"stop", "length" or "tool_calls"."""
    prompt_tokens: int
    completion_tokens: int
    tool_calls: tuple[ToolCall, ...] = ()


def request_form(request: Generate) -> dict[str, JsonValue]:
    """Everything of a request that can change its answer; not who asks, nor how urgently."""
    sampling = request.sampling
    return {
        "messages": [
            [m.role, m.content, m.name, m.tool_call_id, [_call(made) for made in m.tool_calls]]
            for m in request.messages
        ],
        "prompt": request.prompt,
        "tools": [[tool.name, tool.description, tool.parameters] for tool in request.tools],
        "tool_choice": [request.tool_choice, request.tool_name, request.parallel_tool_calls],
        "max_tokens": sampling.max_tokens,
        "numbers": [
            decimal(number)
            for number in (
                sampling.temperature,
                sampling.top_p,
                sampling.min_p,
                sampling.frequency_penalty,
                sampling.presence_penalty,
                sampling.repeat_penalty,
            )
        ],
        "top_k": sampling.top_k,
        "seed": None if sampling.seed is None else str(sampling.seed),
        "stop": list(sampling.stop),
        "logit_bias": [[token, decimal(bias)] for token, bias in sampling.logit_bias],
        "schema": sampling.json_schema,
        "grammar": sampling.grammar,
    }


def _call(made: ToolCall) -> JsonValue:
    return [made.id, made.name, made.arguments]


def completion_form(answer: Completion) -> dict[str, JsonValue]:
    return {
        "text": answer.text,
        "finish": answer.finish,
        "tokens_in": answer.prompt_tokens,
        "tokens_out": answer.completion_tokens,
        "tool_calls": [_call(made) for made in answer.tool_calls],
    }


def completion_of(value: bytes) -> Completion:
    """What `completion_form` made: it was sealed here, so its shape is known."""
    plain: Any = decode(value, limit=len(value))
    return Completion(
        plain["text"],
        plain["finish"],
        plain["tokens_in"],
        plain["tokens_out"],
        tuple(ToolCall(*made) for made in plain["tool_calls"]),
    )
