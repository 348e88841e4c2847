"""The nouns of the decision path: what a caller asks, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from exclave_agent.ports import Caller, Message, Tensor


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
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """Ask for one vector per text. Fields as in `GenerateCall`."""

    decision: str
    model: str
    caller: Caller
    subject: str
    texts: tuple[str, ...]
    data_class: str = ""


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


Call: TypeAlias = GenerateCall | EmbedCall | InferCall


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
    """"stop" or "length"."""
    prompt_tokens: int
    completion_tokens: int
    model_digest: str


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """One vector per text, recorded."""

    receipt: Receipt
    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The model's output tensors, recorded."""

    receipt: Receipt
    outputs: Sequence[Tensor]


class DecisionMetrics(Protocol):
    """Where decisions are counted."""

    def decided(
        self,
        *,
        action: str,
        model: str,
        outcome: str,
        seconds: float,
        tokens_in: int,
        tokens_out: int,
    ) -> None:
        """Count one decision. `model` is "" when the release has none of that name, so that
        callers cannot invent label values; `outcome` as in the RESULT leaf, or "unrecorded".
        """
        ...
