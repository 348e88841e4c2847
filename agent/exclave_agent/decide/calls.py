"""The nouns of the decision path: what a caller asks, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exclave_agent.ports import (
    NO_TIMING,
    Caller,
    Message,
    Priority,
    Tensor,
    Timing,
    TokenLogprob,
    Tool,
    ToolCall,
)

CacheUse: TypeAlias = Literal["auto", "off", "force"]
"""Of the completion cache: what the policy says; never; also for requests that are not
deterministic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """Ask a language model. Exactly one of `messages` ("chat") and `prompt` ("complete")."""

    decision: str
    """A fresh id (`Pipeline.new_id`), minted by the interface so that it can name the
    decision in a header before the answer exists."""
    action: Literal["chat", "complete"]
    model: str
    caller: Caller
    subject: str
    """Whose data this is: the unit of erasure. The policy never sees it: callers choose it."""
    data_class: str = ""
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    stream: bool = False
    """Deltas as they come; else the whole text at once, after it is recorded."""
    response_schema: str | None = None
    """JSON Schema text that the answer must satisfy; the answer is then held back until it
    is complete, valid and recorded, whatever `stream` says."""
    max_tokens: int | None = None
    """None: the budget step chooses."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    grammar: str | None = None
    """Lark text that the answer must match; not with `response_schema`."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    tool_name: str = ""
    parallel_tool_calls: bool = True
    priority: Priority = "interactive"
    timeout: float | None = None
    """Seconds that the caller gives the whole decision; None: no limit of its own."""
    workflow: str = ""
    """A name that the budget document knows; anything else is the caller's text."""
    run: str = ""
    """One run of the workflow: the caller's text, 128 characters at most."""
    cache: CacheUse = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """Ask for one vector per text. Fields as in `GenerateCall`."""

    decision: str
    model: str
    caller: Caller
    subject: str
    texts: tuple[str, ...]
    data_class: str = ""
    workflow: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankCall:
    """Ask how relevant documents are to a query. Fields as in `GenerateCall`."""

    decision: str
    model: str
    caller: Caller
    subject: str
    query: str
    documents: tuple[str, ...]
    data_class: str = ""
    workflow: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCall:
    """Run an ONNX model on tensors. Fields as in `GenerateCall`."""

    decision: str
    model: str
    caller: Caller
    subject: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    """Names wanted; empty: all."""
    data_class: str = ""
    workflow: str = ""
    run: str = ""


Call: TypeAlias = GenerateCall | EmbedCall | RerankCall | InferCall


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where the two leaves of an answered decision are; both are durable."""

    decision: str
    epoch: int
    intent_seq: int
    result_seq: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of a generated answer. Whoever holds it holds a recorded decision."""

    receipt: Receipt
    finish: str
    """"stop", "length", "tool_calls" or "content_filter"."""
    prompt_tokens: int
    completion_tokens: int
    model_digest: str
    model: str = ""
    """The model that answered: not what was asked for, when that was a route."""
    cached_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    """All of the answer's calls; they came as deltas too."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """All of the answer's, when asked for."""
    cache: str = ""
    """"exact" or "semantic": the answer came from the completion cache."""
    degraded: str = ""
    """"fallback", "canned", "person" or "approval" (the answer waits for people): not the first
    choice's answer."""
    timing: Timing = NO_TIMING
    notices: tuple[str, ...] = ()
    """Texts of the policy for the caller to show beside the answer, ASCII."""


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """One vector per text, recorded."""

    receipt: Receipt
    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    notices: tuple[str, ...] = ()
    """As in `Answered`."""


@dataclass(frozen=True, slots=True)
class RerankAnswer:
    """One score per document, recorded."""

    receipt: Receipt
    scores: tuple[float, ...]
    prompt_tokens: int
    notices: tuple[str, ...] = ()
    """As in `Answered`."""


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The model's output tensors, recorded."""

    receipt: Receipt
    outputs: Sequence[Tensor]
    notices: tuple[str, ...] = ()
    """As in `Answered`."""
