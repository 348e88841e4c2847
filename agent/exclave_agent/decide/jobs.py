"""Jobs: how each kind of call asks a model, and how its answer is put together."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from exclave_agent.errors import NoTarget, OutputInvalid
from exclave_agent.ports import (
    NO_TIMING,
    Delta,
    Finished,
    ModelInfo,
    ModelSet,
    Timing,
    TokenLogprob,
    ToolCall,
)
from exclave_protocol.canonical import JsonValue

from . import bodies
from .calls import Call, GenerateCall
from .infer import generate, whole
from .route import Choice, timed
from .validate import Validator

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
T = TypeVar("T")


@dataclass(slots=True)
class Answer:
    """A complete answer, whoever gave it, as the record and the metrics have it. Nobody changes
    it; to freeze it would take longer than to make it."""

    finish: str
    output: JsonValue
    """What the record commits to."""
    info: ModelInfo | None
    """The model that answered; None: a canned answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    timing: Timing = NO_TIMING
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    cache: str = ""
    similarity: str = ""
    """Of a "semantic" one: of the two questions, a decimal."""
    degraded: str = ""


class Draft(Protocol[E_contra]):
    """An answer while it is made, of one target."""

    @property
    def done(self) -> bool:
        """The target has said everything."""
        ...

    def take(self, event: E_contra) -> Delta | None:
        """Take in an event; what of it may leave at once, if anything."""
        ...

    def check(self) -> None:
        """Raises: OutputInvalid, NoTarget ("low_confidence") when the complete answer must not
        be given."""
        ...

    def output(self) -> JsonValue | None:
        """What there is so far, for the record; None: nothing."""
        ...

    def answer(self, info: ModelInfo) -> Answer:
        """The complete answer."""
        ...


class Job(Protocol[E]):
    """One call, as the attempts see it."""

    def prepare(self) -> None:
        """Check what the answer will be held to. Raises: BadRequest."""
        ...

    def takes(self, words: str) -> bool:
        """Whether a text that no model gave may be the answer; after `prepare`."""
        ...

    def params(self, choice: Choice) -> dict[str, JsonValue]:
        """How the answer is made, for the INTENT."""
        ...

    def ask(
        self, models: ModelSet, choice: Choice, seconds: float | None
    ) -> AsyncGenerator[E, None]:
        """Ask one target, which has `seconds` to answer: nothing happens before the first event
        is taken, by `infer.begun`."""
        ...

    def draft(self, choice: Choice) -> Draft[E]:
        """An empty answer of that target."""
        ...


# --- generated ---------------------------------------------------------------------------------


class TextDraft:
    """A generated answer. Held back until it is complete when it must be checked first, or is
    not streamed at all."""

    def __init__(
        self, call: GenerateCall, validator: Validator | None, confidence: float | None
    ) -> None:
        self._call = call
        self._validator = validator
        self._confidence = confidence
        self._held = not call.stream or validator is not None or confidence is not None
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._tool_calls: list[ToolCall] = []
        self._finished: Finished | None = None

    @property
    def done(self) -> bool:
        return self._finished is not None

    def take(self, event: Delta | Finished) -> Delta | None:
        if isinstance(event, Finished):
            self._finished = event
            return None
        self._texts.append(event.text)
        self._logprobs += event.logprobs
        self._tool_calls += event.tool_calls
        return None if self._held else event

    def check(self) -> None:
        if self._validator is not None and not self._tool_calls:
            self._validator.check("".join(self._texts), self._call.decision)
        if self._confidence is not None and self._sureness() < self._confidence:
            raise NoTarget(
                "the model was less sure of its answer than its route asks for",
                code="low_confidence",
            )

    def _sureness(self) -> float:
        """The geometric mean of the tokens' probabilities; 0 when nobody told them."""
        if not self._logprobs:
            return 0.0
        return math.exp(sum(each.logprob for each in self._logprobs) / len(self._logprobs))

    def output(self) -> JsonValue | None:
        if self._tool_calls:
            return bodies.spoken("".join(self._texts), self._tool_calls)
        return "".join(self._texts) if self._texts else None

    def answer(self, info: ModelInfo) -> Answer:
        finished, text = self._finished, "".join(self._texts)
        assert finished is not None, "the answer is complete"
        return Answer(
            finish=finished.reason,
            output=bodies.spoken(text, self._tool_calls) if self._tool_calls else text,
            info=info,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=finished.completion_tokens,
            cached_tokens=finished.cached_tokens,
            timing=finished.timing,
            text=text,
            tool_calls=tuple(self._tool_calls),
            logprobs=() if self._call.top_logprobs is None else tuple(self._logprobs),
        )


class GenerateJob:
    """A language model is asked."""

    def __init__(self, call: GenerateCall) -> None:
        self._call = call
        self._validator: Validator | None = None

    def prepare(self) -> None:
        if self._call.response_schema is not None:
            self._validator = Validator(self._call.response_schema)

    def takes(self, words: str) -> bool:
        if self._validator is None:
            return True
        try:
            self._validator.check(words, self._call.decision)
        except OutputInvalid:
            return False
        return True

    def params(self, choice: Choice) -> dict[str, JsonValue]:
        assert choice.request is not None
        return bodies.generate_params(choice.request, self._call)

    def ask(
        self, models: ModelSet, choice: Choice, seconds: float | None
    ) -> AsyncGenerator[Delta | Finished, None]:
        assert choice.request is not None
        return generate(models, timed(choice.request, seconds))

    def draft(self, choice: Choice) -> TextDraft:
        return TextDraft(self._call, self._validator, choice.target.limits.confidence)


# --- in one piece --------------------------------------------------------------------------------


class WholeDraft(Generic[T]):
    """An answer that comes in one piece, which nothing has to check."""

    def __init__(self, tell: Callable[[T], tuple[JsonValue, int]]) -> None:
        self._tell = tell
        self._found: list[T] = []

    @property
    def done(self) -> bool:
        return bool(self._found)

    def take(self, event: T) -> Delta | None:
        self._found.append(event)
        return None

    def check(self) -> None:
        """Nothing to check."""

    def output(self) -> JsonValue | None:
        return None

    def answer(self, info: ModelInfo) -> Answer:
        output, prompt_tokens = self._tell(self._found[0])
        return Answer("stop", output, info, prompt_tokens)


class WholeJob(Generic[T]):
    """A model is asked for vectors, scores or tensors."""

    def __init__(
        self,
        call: Call,
        run: Callable[[ModelSet, str], Awaitable[T]],
        tell: Callable[[T], tuple[JsonValue, int]],
    ) -> None:
        """`run`: asks the model of that name; `tell`: the output for the record, and the prompt's
        tokens."""
        self._call = call
        self._run = run
        self._tell = tell
        self._found: list[T] = []

    def prepare(self) -> None:
        """Nothing holds such an answer to anything."""

    def takes(self, words: str) -> bool:
        return False

    @property
    def found(self) -> T:
        """The model's own answer, once there is one."""
        return self._found[-1]

    def _told(self, found: T) -> tuple[JsonValue, int]:
        self._found.append(found)
        return self._tell(found)

    def params(self, choice: Choice) -> dict[str, JsonValue]:
        return bodies.size_params(self._call)

    def ask(
        self, models: ModelSet, choice: Choice, seconds: float | None
    ) -> AsyncGenerator[T, None]:
        return whole(lambda: self._run(models, choice.info.name))

    def draft(self, choice: Choice) -> WholeDraft[T]:
        return WholeDraft(self._told)
