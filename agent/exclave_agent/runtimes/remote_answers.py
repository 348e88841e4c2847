"""What a remote endpoint answers, believed as little as can be: bounded, typed, and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from exclave_agent.errors import RemoteFailed
from exclave_agent.ports import Delta, Finished, Generate, Timing, TokenLogprob, ToolCall

MAX_LINE: Final = 1 << 20
"""Bytes of one event."""
MAX_CALLS: Final = 128
"""Tool calls of one answer."""
TOKEN_BYTES: Final = 256
"""No token of any vocabulary that we know is longer."""
WIRE_BYTES: Final = 8192
"""Bytes on the wire for each token: its event, with twenty alternatives."""
MAX_COUNT: Final = 100_000_000
"""Tokens of one request: a provider that counts more is not believed."""
DONE: Final = b"[DONE]"
REASONS: Final = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""Every other reason is a stop."""


def broken(what: str) -> RemoteFailed:
    """An answer that cannot be used, for a reason of ours: never in the provider's words."""
    return RemoteFailed(f"the remote model's answer {what}")


class EventLines:
    """Server-sent events from bytes (WHATWG HTML, 9.2.6): the data of each.

    Event names, ids and comments are skipped: chat completions have none of meaning. Lines end
    in LF or CR LF; that a lone CR could end one too, no server of this API makes use of.
    """

    def __init__(self, most: int) -> None:
        """`most`: bytes of the whole answer."""
        self._left = most
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._held = 0
        """Bytes of these lines, their ends included: empty ones count too."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that are now complete. Raises: RemoteFailed (too much)."""
        self._left -= len(chunk)
        if self._left < 0:
            raise broken("is longer than its limit of tokens allows")
        self._buffer += chunk
        # Without an end of line in it, what was there before is not looked at again.
        lines = self._buffer.split(b"\n") if b"\n" in chunk else [self._buffer]
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_LINE:
            raise broken(f"has a line longer than {MAX_LINE} bytes")
        for line in lines:
            if (event := self._line(bytes(line).removesuffix(b"\r"))) is not None:
                yield event

    def _line(self, line: bytes) -> bytes | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._held += len(value) + 1
                if self._held > MAX_LINE:
                    raise broken(f"has an event longer than {MAX_LINE} bytes")
            return None
        data, self._data, self._held = self._data, [], 0
        return b"\n".join(data) if data else None


# --- the API's forms ------------------------------------------------------------------------


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPart(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_CallPart] | None = None


class _Top(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_Top):
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    """Both forms: that of chat (`content`), and that of completions (the others)."""

    content: list[_Logprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Part | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    """Checked by `usage_of`: a wrong count costs us a count, not the answer."""
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: Any = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_VECTORS: Final = msgspec.json.Decoder(_Vectors)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider counted."""

    prompt: int
    completion: int
    cached: int


def usage_of(value: object) -> Usage | None:
    """The provider's count; None where it has none, or one that cannot be."""
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if not prompt:
        return None
    details = value.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, completion or 0, min(cached or 0, prompt))


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    return None


# --- a streamed answer ----------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Answer:
    """A streamed answer while it comes in.

    It is over at `max_tokens` even when the provider goes on: each piece is a token at least.
    """

    def __init__(self, request: Generate, most_prompt: int, new_id: Callable[[], str]) -> None:
        """`most_prompt`: prompt tokens to book if the provider does not say how many it read;
        `new_id` names tool calls that the provider left without a name."""
        self._limit = request.sampling.max_tokens
        self._offered = {tool.name for tool in request.tools}
        if request.tool_choice == "none":
            self._offered = set()
        self._required = request.tool_choice == "required"
        self._most_prompt = most_prompt
        self._new_id = new_id
        self._calls: dict[int, _Call] = {}
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._pieces = 0
        self._bytes = 0
        self.cut = False
        """Whether the provider went past `max_tokens`: nothing more is read."""
        self.done = False
        """Whether the provider has said that nothing follows."""

    @property
    def complete(self) -> bool:
        """Whether it has its finish; a count may follow."""
        return self._reason is not None or self.cut

    @property
    def pieces(self) -> int:
        """Tokens that came, as far as they can be told apart; those of tool calls too."""
        return self._pieces

    def take(self, event: bytes) -> Delta | None:
        """One event's text. Raises: RemoteFailed."""
        if event.strip() == DONE:
            self.done = True
            return None
        chunk = _decode(_CHUNK, event)
        if chunk.error is not None:
            raise RemoteFailed("the remote model failed during its answer", retry_after=1.0)
        if (usage := usage_of(chunk.usage)) is not None:
            self._usage = usage
        texts: list[str] = []
        logprobs: list[TokenLogprob] = []
        for choice in chunk.choices or ():
            if choice.index != 0 or self.complete:
                continue
            text, piece = self._text(choice)
            told = list(_logprobs(choice.logprobs))
            if piece:
                if self._pieces + max(1, len(told)) > self._limit or self._too_long():
                    self.cut = True
                    break
                self._pieces += max(1, len(told))
                texts.append(text)
                logprobs += told
            if choice.finish_reason:
                self._reason = REASONS.get(choice.finish_reason, "stop")
        text = "".join(texts)
        return Delta(text, tuple(logprobs)) if text or logprobs else None

    def calls(self) -> tuple[ToolCall, ...]:
        """The whole tool calls, once the answer is complete. Raises: RemoteFailed."""
        if self.cut:
            return ()
        found = []
        for _, call in sorted(self._calls.items()):
            if call.name not in self._offered:
                raise broken("calls a function that was not offered")
            found.append(ToolCall(call.id or self._new_id(), call.name, "".join(call.arguments)))
        if self._required and not found and self._reason == "stop":
            raise broken("calls no function, though one was required")
        return tuple(found)

    def finished(self, timing: Timing) -> Finished:
        """The end. Raises: RemoteFailed when the answer broke off."""
        if not self.complete:
            raise broken("broke off")
        reason = "length" if self.cut else self._reason or "stop"
        if self._calls and reason == "stop":
            reason = "tool_calls"
        usage = self._usage
        if usage is None or self.cut:
            # Nobody has counted: book no less than there can have been.
            most = self._limit if self.cut else min(self._limit, max(self._pieces, self._bytes))
            return Finished(reason, self._most_prompt, max(1, most), 0, timing)
        completion = max(usage.completion, 1 if self._pieces else 0)
        return Finished(reason, usage.prompt, completion, usage.cached, timing)

    def _text(self, choice: _Choice) -> tuple[str, bool]:
        """The text of a piece, and whether it holds any token."""
        if (part := choice.delta) is None:
            text = choice.text or ""
            self._bytes += len(text.encode())
            return text, bool(text)
        text = (part.content or "") + (part.refusal or "")
        thought = (part.reasoning_content or "") + (part.reasoning or "")
        called = "".join(map(self._call, part.tool_calls or ()))
        self._bytes += len((text + thought + called).encode())
        return text, bool(text or thought or called)

    def _call(self, part: _CallPart) -> str:
        """More of a tool call; what of it the model wrote."""
        index = part.index
        if index is None:
            # Providers that leave it out send each call whole.
            index = max(self._calls, default=-1) + 1
        if not 0 <= index < MAX_CALLS:
            raise broken(f"has more than {MAX_CALLS} tool calls")
        call = self._calls.setdefault(index, _Call())
        function = part.function or _Function()
        call.id = call.id or part.id or ""
        call.name = call.name or function.name or ""
        if function.arguments:
            call.arguments.append(function.arguments)
        return function.arguments or ""

    def _too_long(self) -> bool:
        return self._bytes > self._limit * TOKEN_BYTES


def _logprobs(given: _Logprobs | None) -> Iterator[TokenLogprob]:
    if given is None:
        return
    for one in given.content or ():
        top = tuple((_token(each), each.logprob) for each in one.top_logprobs or ())
        yield TokenLogprob(_token(one), one.logprob, top)
    values, tops = given.token_logprobs or [], given.top_logprobs or []
    for at, token in enumerate(given.tokens or ()):
        value = values[at] if at < len(values) else None
        best = (tops[at] if at < len(tops) else None) or {}
        ranked = sorted(best.items(), key=lambda item: -item[1])
        yield TokenLogprob(
            token.encode(),
            0.0 if value is None else value,
            tuple((name.encode(), logprob) for name, logprob in ranked),
        )


def _token(given: _Top) -> bytes:
    if given.bytes is not None and all(0 <= byte < 256 for byte in given.bytes):
        return bytes(given.bytes)
    return given.token.encode()


# --- embeddings ------------------------------------------------------------------------------


def vectors(data: bytes, count: int) -> tuple[tuple[tuple[float, ...], ...], Usage | None]:
    """Unit vectors in the order of the texts, and the provider's count. Raises: RemoteFailed."""
    answer = _decode(_VECTORS, data)
    found = sorted(answer.data, key=lambda one: one.index)
    if [one.index for one in found] != list(range(count)):
        raise broken("has not one vector for each text")
    if len({len(one.embedding) for one in found}) > 1 or not all(one.embedding for one in found):
        raise broken("has vectors of different lengths")
    return tuple(_unit(one.embedding) for one in found), usage_of(answer.usage)


def _unit(vector: list[float]) -> tuple[float, ...]:
    length = math.hypot(*vector)  # no square overflows in it
    if not math.isfinite(length) or length == 0.0:
        raise broken("has a vector without a direction")
    return tuple(value / length for value in vector)


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise broken("is not of the form that OpenAI's API has") from None
