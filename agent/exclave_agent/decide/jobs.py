"""Jobs: how each kind of call asks a model, and how its answer is put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, cast

from exclave_agent.errors import NoTarget, OutputInvalid
from exclave_agent.ports import (
    NO_TIMING,
    Delta,
    Finished,
    Message,
    ModelInfo,
    ModelSet,
    Timing,
    TokenLogprob,
    ToolCall,
)
from exclave_protocol.canonical import JsonValue

from . import bodies
from .calls import EmbedCall, GenerateCall, InferCall, RerankCall
from .examine import Said, spoken, sureness
from .infer import generate, whole
from .plan import Choice
from .redact import Restoration
from .route import timed
from .validate import Validator
from .worst import repair_room, repair_tokens

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
T = TypeVar("T")
C = TypeVar("C", EmbedCall, RerankCall, InferCall)


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

    def said(self) -> Said | None:
        """The complete answer as validators look at it; None: they have nothing to look at."""
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

    def repair(self, choice: Choice, draft: Draft[E], reasons: Sequence[str]) -> bool:
        """Have the target asked once more, told what was wrong with its answer; False: this kind
        of call has no words for that."""
        ...


# --- generated ---------------------------------------------------------------------------------


class TextDraft:
    """A generated answer. Held back until it is complete when it must be checked first, or is
    not streamed at all."""

    def __init__(self, call: GenerateCall, validator: Validator | None, choice: Choice) -> None:
        confidence, redacted = choice.target.limits.confidence, choice.redacted
        self._call = call
        self._validator = validator
        self._confidence = confidence
        self._held = (
            not call.stream or validator is not None or confidence is not None or choice.held
        )
        self._restoration: Restoration | None = None
        if redacted is not None and redacted.restored:
            self._restoration = redacted.restorer(in_json=call.response_schema is not None)
        self._raw: list[str] = []
        """What the model said, where that is not what the caller is given."""
        self._made: list[ToolCall] = []
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
            return self._rest()
        self._made += event.tool_calls
        if self._restoration is not None:
            event = self._restored(event, self._restoration)
        self._texts.append(event.text)
        self._logprobs += event.logprobs
        self._tool_calls += event.tool_calls
        return None if self._held else event

    def _restored(self, event: Delta, restoration: Restoration) -> Delta:
        """The piece with its values. One that may be the start of a token waits for the next."""
        self._raw.append(event.text)
        calls = tuple(restoration.call(made) for made in event.tool_calls)
        return Delta(restoration.feed(event.text), event.logprobs, calls)

    def _rest(self) -> Delta | None:
        rest = "" if self._restoration is None else self._restoration.flush()
        if not rest:
            return None
        self._texts.append(rest)
        return None if self._held else Delta(rest)

    def said(self) -> Said | None:
        return spoken("".join(self._texts), self._tool_calls, self._logprobs)

    def check(self) -> None:
        if self._validator is not None and not self._tool_calls:
            self._validator.check("".join(self._texts), self._call.decision)
        if self._confidence is not None and sureness(self._logprobs) < self._confidence:
            raise NoTarget(
                "the model was less sure of its answer than its route asks for",
                code="low_confidence",
            )

    def as_made(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What the model said, in its own words: for itself."""
        pieces = self._texts if self._restoration is None else self._raw
        return "".join(pieces), tuple(self._made)

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
        request = choice.sent or choice.request
        assert request is not None
        return generate(models, timed(request, seconds))

    def draft(self, choice: Choice) -> TextDraft:
        return TextDraft(self._call, self._validator, choice)

    def repair(
        self, choice: Choice, draft: Draft[Delta | Finished], reasons: Sequence[str]
    ) -> bool:
        request = choice.sent or choice.request
        assert request is not None and isinstance(draft, TextDraft)
        told = told_again(draft.as_made(), reasons)
        if repair_tokens(told) > repair_room(self._call):
            return False
        if request.prompt is None:
            choice.sent = replace(request, messages=(*request.messages, *told))
        else:
            said, words = told[0].content, told[-1].content
            choice.sent = replace(request, prompt=f"{request.prompt}{said}\n\n{words}\n\n")
        return True


def told_again(
    made: tuple[str, tuple[ToolCall, ...]], reasons: Sequence[str]
) -> tuple[Message, ...]:
    """The model's own answer, first, and what is wrong with it, last."""
    text, calls = made
    words = _REPAIR.format("; ".join(dict.fromkeys(reasons)))
    return (
        Message("assistant", text, calls),
        *(Message("tool", "not called", tool_call_id=each.id, name=each.name) for each in calls),
        Message("user", words),
    )


_REPAIR = (
    "Your last answer was not accepted: {}. Answer the request above once more, completely, and "
    "without this fault. Do not mention this message."
)


# --- in one piece --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that is no text, in the record's words."""

    output: JsonValue
    prompt_tokens: int = 0
    said: Said | None = None
    """For validators; None: it holds nothing that they could read."""


class WholeDraft(Generic[T]):
    """An answer that comes in one piece."""

    def __init__(self, tell: Callable[[T], Told]) -> None:
        self._tell = tell
        self._found: list[T] = []
        self._once: Told | None = None

    @property
    def done(self) -> bool:
        return bool(self._found)

    def take(self, event: T) -> Delta | None:
        self._found.append(event)
        return None

    def check(self) -> None:
        """No request holds it to anything."""

    def said(self) -> Said | None:
        return self._told().said

    def output(self) -> JsonValue | None:
        return self._told().output if self._found else None

    def answer(self, info: ModelInfo) -> Answer:
        told = self._told()
        return Answer("stop", told.output, info, told.prompt_tokens)

    def _told(self) -> Told:
        if self._once is None:
            self._once = self._tell(self._found[0])
        return self._once


class WholeJob(Generic[T, C]):
    """A model is asked for vectors, scores or tensors."""

    def __init__(
        self,
        call: C,
        run: Callable[[ModelSet, str, C], Awaitable[T]],
        tell: Callable[[T], Told],
    ) -> None:
        """`run`: asks the model of that name the call, as that model may see it; `tell`: what it
        says, for the record and for validators."""
        self._call: C = call
        self._run: Callable[[ModelSet, str, C], Awaitable[T]] = run
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

    def _told(self, found: T) -> Told:
        self._found.append(found)
        return self._tell(found)

    def params(self, choice: Choice) -> dict[str, JsonValue]:
        return bodies.size_params(self._call)

    def ask(
        self, models: ModelSet, choice: Choice, seconds: float | None
    ) -> AsyncGenerator[T, None]:
        # A redaction makes another call of the same kind.
        call = self._call if choice.redacted is None else cast("C", choice.redacted.call)
        return whole(lambda: self._run(models, choice.info.name, call))

    def draft(self, choice: Choice) -> WholeDraft[T]:
        return WholeDraft(self._told)

    def repair(self, choice: Choice, draft: Draft[T], reasons: Sequence[str]) -> bool:
        return False
