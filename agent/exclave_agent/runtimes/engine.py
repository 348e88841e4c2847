"""What the scheduler asks of an engine, and what passes between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.costs import Measured


class Emit(Protocol):
    """Sends frames to the agent, all of them in one write."""

    def __call__(self, *sent: frames.ToAgent) -> None:
        """Blocks while the agent does not read."""
        ...


Request = frames.Generate | frames.Infer | frames.Embed | frames.Rerank


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

    logprob: frames.LogprobFrame | None
    """Of the token sampled last, when the request asked for it."""

    def sample(self, context: Any, index: int, logits: Any) -> int:
        """The next token, `NO_TOKEN` when none is allowed; only its engine calls this. The
        token counts as accepted: penalties and grammar have moved on."""
        ...

    def close(self) -> None:
        """Free it. Idempotent."""
        ...


class Output(Protocol):
    """Makes text, and whatever else was asked for, of one sequence's tokens."""

    stopped: bool
    """A stop string, or the last call that may be made, is complete: no more tokens."""
    plain: bool
    """It never has extras."""

    def feed(self, piece: bytes, logprob: frames.LogprobFrame | None = None) -> str:
        """One token's bytes; returns the text that can be sent now, empty while it hangs on
        what comes next."""
        ...

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        ...

    def extras(self) -> tuple[list[frames.LogprobFrame], list[frames.ToolCallFrame]]:
        """Log probabilities of the text sent and calls completed since the last time."""
        ...

    def reason(self, natural: str) -> str:
        """The finish reason, where by itself it would be `natural` ("stop", "length")."""
        ...


class State(Protocol):
    """What an engine computed for a sequence, taken out of it; opaque."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...


class Running:
    """One request on its way through prefill and decode.

    `tokens` is all that is known of it: the prompt, then the answer so far. The engine has
    decoded the first `position` of them; the last one never, since its logits are what the next
    token is sampled from.
    """

    __slots__ = (
        "acceptance", "accepted", "adapter", "arrived", "cached", "caller", "constrained",
        "deadline", "drafted", "ended", "first_at", "id", "interactive", "lead_to", "leader",
        "lookup", "max_tokens", "output", "position", "preemptions", "prompt", "safe_until",
        "sampler", "shareable", "slot", "started", "timeout", "tokens", "used",
    )  # fmt: skip

    def __init__(
        self,
        request: frames.Generate,
        prompt: Sequence[int],
        sampler: Sampler,
        output: Output,
        shareable: int = 0,
    ) -> None:
        self.id = request.id
        self.caller = request.caller
        """The unit of fairness; what a caller wrote is reused for the same caller only."""
        self.interactive = request.priority == "interactive"
        self.timeout = None if request.timeout_us is None else request.timeout_us / 1e6
        """Seconds from its arrival."""
        self.adapter = request.adapter
        self.constrained = _constrained(request)
        """The parameter that says which answers are allowed; "": none does."""
        self.prompt = prompt
        self.tokens = list(prompt)
        self.max_tokens = request.sampling.max_tokens
        self.sampler = sampler
        self.output = output
        self.shareable = shareable
        """Tokens at the prompt's beginning that came before anything a caller wrote: the
        template's words and the system messages. They may be reused for everybody."""
        self.slot = -1
        """-1: it holds none."""
        self.position = 0
        self.used = 0
        """Tokens of the answer so far."""
        self.leader: Running | None = None
        """The sequence whose prefill of the first `lead_to` tokens it waits for."""
        self.lead_to = 0
        self.lookup: Any = None
        """The index of its tokens, once it was made; see `draft`."""
        self.acceptance = 0.6
        """How likely the model agrees with a drafted token, smoothed."""
        self.safe_until = 0
        """Tokens of the answer before which it keeps its slot."""
        self.ended = False
        self.arrived = 0.0
        self.deadline: float | None = None
        self.started = -1.0
        """When it got its first slot; -1: not yet."""
        self.first_at = -1.0
        """When its first token was there."""
        self.cached = 0
        """Prompt tokens that were not computed for it."""
        self.preemptions = 0
        self.drafted = 0
        self.accepted = 0


def _constrained(request: frames.Generate) -> str:
    if request.sampling.json_schema is not None:
        return "response_format"
    if request.sampling.grammar is not None:
        return "grammar"
    return "tools" if request.tools else ""


class Work:
    """The tokens of one slot in one step; tokens are sampled when `sample`."""

    __slots__ = ("draft", "logprobs", "position", "sample", "sampled", "sequence", "slot", "tokens")

    def __init__(
        self,
        sequence: Running,
        tokens: Sequence[int],
        position: int,
        sample: bool,
        draft: int = 0,
    ) -> None:
        self.sequence = sequence
        self.slot = sequence.slot
        self.tokens = tokens
        self.position = position
        self.sample = sample
        self.draft = draft
        """How many of the tokens, at their end, are guessed: each is to be sampled first, and
        sampling ends at the first that falls out otherwise."""
        self.sampled: Sequence[int] = ()
        """What the engine chose: one token, and one more for each guess that was right."""
        self.logprobs: list[frames.LogprobFrame] = []
        """One for each sampled token where the request asked for them, else none."""


class Engine(Protocol):
    """A model that decodes several sequences at once."""

    slots: int
    """Sequences it holds."""
    step_tokens: int
    """Most tokens of one step."""
    measured: Measured
    """Its costs, as found at load."""
    reuses: bool
    """Whether slots can be cut and may start behind what they hold."""

    def decode(self, plan: Sequence[Work]) -> None:
        """Run the model over the plan and sample: fills `Work.sampled` and `Work.logprobs`.

        The plan is ordered by slot and of one adapter. `NO_TOKEN` for a sequence whose
        constraint leaves none.
        """
        ...

    def forget(self, slot: int, keep: int = 0) -> None:
        """Free what the slot holds after its first `keep` tokens."""
        ...

    def move(self, slot: int, to: int) -> None:
        """Give what `slot` holds to the free slot `to`."""
        ...

    def copy(self, slot: int, to: int, tokens: int) -> None:
        """Give `to` what `slot` holds, at least its first `tokens`, instead of what it held."""
        ...

    def save(self, slot: int) -> State:
        """Take out a copy of all that the slot holds."""
        ...

    def restore(self, slot: int, state: State) -> bool:
        """Put a state into a slot instead of what it held; False: the engine will not have it,
        and the slot is empty."""
        ...

    def state_bytes(self, tokens: int) -> int:
        """About the size of a state of so many tokens."""
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
        """One vector a text (float32, little-endian); see `embed_tokens`, `embed_texts`."""
        ...

    embed_texts: int
    embed_tokens: int
    """Most texts and tokens of one `embed`."""


NO_TOKEN = -1
"""What `Engine.decode` gives for a sequence whose constraint allows no token at all."""
