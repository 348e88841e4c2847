"""Requests of the decision path as frames for a worker."""

from __future__ import annotations

from collections.abc import Callable

from exclave_agent.ports import Generate, Message, Sampling
from exclave_agent.runtimes import frames


def generate_frame(
    request_id: int,
    request: Generate,
    seed: Callable[[], int],
    *,
    adapter: str = "",
    timeout: float | None = None,
) -> frames.Generate:
    """The frame of a request; a seed is drawn when the caller gave none.

    `adapter` is the digest of the LoRA adapter to answer with; `timeout` what is left of the
    request's own, in seconds.
    """
    return frames.Generate(
        request_id,
        [_message(one) for one in request.messages],
        request.prompt,
        _sampling(request.sampling, seed),
        tools=[
            frames.ToolFrame(one.name, one.description, one.parameters) for one in request.tools
        ],
        tool_choice=request.tool_choice,
        tool_name=request.tool_name,
        parallel_tool_calls=request.parallel_tool_calls,
        caller=request.caller,
        priority=request.priority,
        timeout_us=None if timeout is None else max(0, round(timeout * 1e6)),
        adapter=adapter,
    )


def _message(message: Message) -> frames.ChatMessage:
    return frames.ChatMessage(
        message.role,
        message.content,
        [frames.ToolCallFrame(one.id, one.name, one.arguments) for one in message.tool_calls],
        message.tool_call_id,
        message.name,
    )


def _sampling(chosen: Sampling, seed: Callable[[], int]) -> frames.SamplingFrame:
    return frames.SamplingFrame(
        max_tokens=chosen.max_tokens,
        temperature=float(chosen.temperature),
        top_p=float(chosen.top_p),
        top_k=chosen.top_k,
        min_p=float(chosen.min_p),
        frequency_penalty=float(chosen.frequency_penalty),
        presence_penalty=float(chosen.presence_penalty),
        seed=seed() if chosen.seed is None else chosen.seed % (1 << 32),
        stop=list(chosen.stop),
        json_schema=chosen.json_schema,
        repeat_penalty=float(chosen.repeat_penalty),
        logit_bias=[(token, float(bias)) for token, bias in chosen.logit_bias],
        top_logprobs=chosen.top_logprobs,
        grammar=chosen.grammar,
    )
