"""Worst: the most tokens and the most money that a call can cost, before anybody counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave_agent.ports import Message, ModelInfo, Price

from .authorize import prompt_bytes
from .calls import Call, EmbedCall, GenerateCall, InferCall

_TEMPLATE_TOKENS = 256
"""What a chat template may add of its own: a default system prompt, the preamble of tools."""
_MESSAGE_TOKENS = 32
"""What it may add to each message, or each tool: marks, role."""
_TEXT_TOKENS = 8
"""What a model adds to each text that it embeds or compares."""


@dataclass(frozen=True, slots=True)
class Worst:
    """A bound on one attempt that is known before the prompt is counted."""

    prompt: int
    """Tokens of the prompt."""
    completion: int
    """Tokens of the answer."""

    @property
    def total(self) -> int:
        """Tokens of both."""
        return self.prompt + self.completion

    def cost_micro(self, price: Price) -> int:
        """Millionths of the price's currency. Where cached prompts cost more than others, all of
        the prompt may be cached."""
        plain = price.cost_micro(self.prompt, self.completion)
        cached = price.cost_micro(self.prompt, self.completion, self.prompt)
        return max(plain, cached)


def worst_case(call: Call, info: ModelInfo, max_tokens: int = 0) -> Worst:
    """The bound for one attempt of one model. `max_tokens`: of the answer, as granted.

    No tokenizer makes more tokens than the text has bytes; a template adds its own. Where the
    context is known, nothing exceeds it: the runtime refuses what does not fit.
    """
    if isinstance(call, InferCall):
        return Worst(0, 0)
    if not isinstance(call, GenerateCall):
        texts = len(call.texts) if isinstance(call, EmbedCall) else len(call.documents)
        prompt = prompt_bytes(call) + _TEXT_TOKENS * texts
        if not isinstance(call, EmbedCall):  # the query goes with every document
            prompt += len(call.query.encode()) * max(texts - 1, 0)
        if info.context_tokens:
            prompt = min(prompt, info.context_tokens * texts)
        return Worst(prompt, 0)
    prompt = _generate_bytes(call) + _TEMPLATE_TOKENS
    prompt += _MESSAGE_TOKENS * (len(call.messages) + len(call.tools))
    if info.context_tokens:
        prompt = max(min(prompt, info.context_tokens - max_tokens), 0)
    return Worst(prompt, max_tokens)


_REPAIR_TOKENS = 1024
"""What a model may be told of an answer that was not accepted."""
_UNCALLED_TOKENS = 2048
"""What it may be told besides, in place of what the tools would have said that it called."""


def twice(worst: Worst, info: ModelInfo, room: int) -> Worst:
    """With one more attempt, which is shown the first one's answer, and told of it in `room`."""
    second = worst.prompt + worst.completion + room
    if info.context_tokens:
        second = min(second, info.context_tokens)
    return Worst(worst.prompt + second, 2 * worst.completion)


def repair_room(call: Call) -> int:
    """Tokens in which a model is told that its answer was not accepted: reserved beforehand, so
    what takes more is not said."""
    tools = isinstance(call, GenerateCall) and call.tools
    return _REPAIR_TOKENS + (_UNCALLED_TOKENS if tools else 0)


def repair_tokens(messages: Sequence[Message]) -> int:
    """The most that these take beside the answer itself: its text, and what it calls tools with."""
    size = 0
    for message in messages:
        size += _MESSAGE_TOKENS * (1 + len(message.tool_calls))
        size += len(f"{message.name}{message.tool_call_id}".encode())
        size += sum(len(f"{made.id}{made.name}".encode()) for made in message.tool_calls)
        if message.role != "assistant":
            size += len(message.content.encode())
    return size


def _generate_bytes(call: GenerateCall) -> int:
    """Everything of a call that may stand in the prompt."""
    size = prompt_bytes(call)
    for message in call.messages:
        size += len(f"{message.role}{message.name}{message.tool_call_id}".encode())
        for made in message.tool_calls:
            size += len(f"{made.id}{made.name}{made.arguments}".encode())
    for tool in call.tools:
        size += len(f"{tool.name}{tool.description}{tool.parameters}".encode())
    if call.response_schema is not None:  # some templates and providers show it to the model
        size += len(call.response_schema.encode())
    return size
