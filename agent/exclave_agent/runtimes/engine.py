"""What the scheduler asks of an engine, and what passes between the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.text import StopFilter

Emit = Callable[[frames.ToAgent], None]
"""Sends one frame to the agent."""
Request = frames.Generate | frames.Infer | frames.Embed


class LoadError(Exception):
    """The model cannot be loaded; the message is fit for the operator."""


class Refused(Exception):
    """A request that is not served, in the words of `exclave_agent.errors`."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def frame(self, request: int) -> frames.Failed:
        """What the agent is told."""
        return frames.Failed(request, self.code, self.message, self.param, self.retry_after)


class Sampler(Protocol):
    """Chooses one sequence's tokens; belongs to the engine that made it."""

    def sample(self, context: Any, index: int, logits: Any) -> int:
        """The next token, `NO_TOKEN` when none is allowed; only its engine calls this."""
        ...

    def close(self) -> None:
        """Free it. Idempotent."""
        ...


class Running:
    """One request on its way through prefill and decode."""

    __slots__ = (
        "admitted", "id", "last", "max_tokens", "position", "prompt", "sampler", "shareable",
        "slot", "text", "used",
    )  # fmt: skip

    def __init__(
        self,
        request: int,
        prompt: Sequence[int],
        max_tokens: int,
        sampler: Sampler,
        text: StopFilter,
        shareable: int = 0,
    ) -> None:
        self.id = request
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.text = text
        self.shareable = shareable
        """Tokens at the prompt's beginning that may stay in the slot for later requests: what
        came before anything a user wrote."""
        self.slot = -1
        self.position = 0
        """Tokens of it that the engine has decoded."""
        self.last = -1
        """The token sampled last, to be decoded next; -1 while in prefill."""
        self.used = 0
        """Tokens of the answer so far."""
        self.admitted = 0.0


class Work:
    """The tokens of one slot in one step; the last one's logits are wanted when `sample`."""

    __slots__ = ("position", "sample", "sequence", "slot", "tokens")

    def __init__(
        self, sequence: Running, tokens: Sequence[int], position: int, sample: bool
    ) -> None:
        self.sequence = sequence
        self.slot = sequence.slot
        self.tokens = tokens
        self.position = position
        self.sample = sample


class Engine(Protocol):
    """A model that decodes several sequences at once."""

    slots: int
    """Sequences it holds."""
    step_tokens: int
    """Most tokens of one step."""

    def decode(self, plan: Sequence[Work]) -> list[int]:
        """Run the model over the plan and sample; one token for each item with `sample`, in order.

        The plan is ordered by slot. `NO_TOKEN` for a sequence whose constraint leaves none.
        """
        ...

    def forget(self, slot: int, keep: int = 0) -> None:
        """Free what the slot holds after its first `keep` tokens."""
        ...

    def move(self, slot: int, to: int) -> None:
        """Give what `slot` holds to the free slot `to`."""
        ...

    moving_pays: bool
    """Whether a move costs less than the few steps that a gap between slots slows down."""

    def is_end(self, token: int) -> bool:
        """Whether the model means "end of answer" by it."""
        ...

    def piece(self, token: int) -> bytes:
        """The token's bytes; empty for control tokens."""
        ...

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """One unit vector a text (float32, little-endian); see `embed_tokens`, `embed_texts`."""
        ...

    embed_texts: int
    embed_tokens: int
    """Most texts and tokens of one `embed`."""


NO_TOKEN = -1
"""What `Engine.decode` gives for a sequence whose constraint allows no token at all."""


class EmbedJob:
    """Texts to embed, some of them perhaps done."""

    __slots__ = ("id", "texts", "vectors")

    def __init__(self, request: int, texts: Sequence[Sequence[int]]) -> None:
        self.id = request
        self.texts = texts
        self.vectors: list[bytes] = []
