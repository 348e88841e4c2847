"""How OpenAI's API words answers: choices, streamed parts, log probabilities, usage."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any, Protocol

from exclave_agent.decide.calls import Answered, GenerateCall
from exclave_agent.ports import Delta, TokenLogprob, ToolCall

from .headers import notice_headers

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have; OpenAI's number for it."""
_utf8 = getincrementaldecoder("utf-8")


class Wording(Protocol):
    """One answer's choice, whole or in parts; without index and finish_reason. It is made anew
    for each answer, for it counts what it has worded."""

    id_prefix: str
    whole: str
    """`object` of a plain answer."""
    piece: str
    """`object` of a streamed part."""

    def message(self, answer: Delta) -> dict[str, Any]:
        """The choice of a plain answer, all of which is in `answer`."""
        ...

    def opening(self) -> dict[str, Any] | None:
        """What a stream says before any text."""
        ...

    def delta(self, delta: Delta) -> dict[str, Any]:
        """The choice of a streamed part."""
        ...

    def closing(self) -> dict[str, Any]:
        """What a stream's last part says beside its finish_reason."""
        ...


class ChatWording:
    """Of POST /v1/chat/completions."""

    id_prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(self, call: GenerateCall) -> None:
        self._with_logprobs = call.top_logprobs is not None
        self._calls = 0
        """Tool calls worded so far."""

    def message(self, answer: Delta) -> dict[str, Any]:
        """See `Wording`."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [_tool_call(call) for call in answer.tool_calls]
        return {"message": message, "logprobs": self._logprobs(answer.logprobs)}

    def opening(self) -> dict[str, Any] | None:
        """See `Wording`."""
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}

    def delta(self, delta: Delta) -> dict[str, Any]:
        """See `Wording`."""
        said: dict[str, Any] = {}
        if delta.text or not delta.tool_calls:
            said["content"] = delta.text
        if delta.tool_calls:
            said["tool_calls"] = [
                {"index": index, **_tool_call(call)}
                for index, call in enumerate(delta.tool_calls, self._calls)
            ]
            self._calls += len(delta.tool_calls)
        if not self._with_logprobs:
            return {"delta": said}
        return {"delta": said, "logprobs": self._logprobs(delta.logprobs)}

    def closing(self) -> dict[str, Any]:
        """See `Wording`."""
        return {"delta": {}}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = [
            {
                **_logprob(each.token, each.logprob),
                "top_logprobs": [_logprob(token, value) for token, value in each.top],
            }
            for each in tokens
        ]
        return {"content": content, "refusal": None}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _logprob(token: bytes, value: float) -> dict[str, Any]:
    return {
        "token": token.decode("utf-8", "backslashreplace"),
        "logprob": max(value, LEAST_LOGPROB),
        "bytes": list(token),
    }


class TextWording:
    """Of POST /v1/completions."""

    id_prefix = "cmpl-"
    whole = "text_completion"
    piece = "text_completion"

    def __init__(self, call: GenerateCall) -> None:
        self._with_logprobs = call.top_logprobs is not None
        self._with_top = bool(call.top_logprobs)
        self._decoder = _utf8("replace")
        self._offset = 0
        """Characters that the tokens worded so far make."""

    def message(self, answer: Delta) -> dict[str, Any]:
        """See `Wording`."""
        return {"text": answer.text, "logprobs": self._logprobs(answer.logprobs)}

    def opening(self) -> dict[str, Any] | None:
        """See `Wording`."""
        return None

    def delta(self, delta: Delta) -> dict[str, Any]:
        """See `Wording`."""
        return self.message(delta)

    def closing(self) -> dict[str, Any]:
        """See `Wording`."""
        return {"text": ""}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        offsets = []
        for each in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(each.token))
        return {
            "tokens": [_name(each.token) for each in tokens],
            "token_logprobs": [max(each.logprob, LEAST_LOGPROB) for each in tokens],
            "top_logprobs": [
                {_name(token): max(value, LEAST_LOGPROB) for token, value in each.top}
                for each in tokens
            ]
            if self._with_top
            else None,
            "text_offset": offsets,
        }


def _name(token: bytes) -> str:
    """The legacy name of a token; those that are no whole characters have one of their own."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


class Gathered:
    """What of an answer came as deltas, and what its end adds to that."""

    __slots__ = ("calls", "logprobs", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.calls: list[ToolCall] = []

    def add(self, delta: Delta) -> None:
        """Take in the next delta."""
        self.text.append(delta.text)
        self.logprobs += delta.logprobs
        self.calls += delta.tool_calls

    def rest(self, end: Answered) -> Delta:
        """What only the end tells: an answer that was held back has its calls there."""
        return Delta("", end.logprobs[len(self.logprobs) :], end.tool_calls[len(self.calls) :])

    def all(self) -> Delta:
        """Everything taken in."""
        return Delta("".join(self.text), tuple(self.logprobs), tuple(self.calls))


# --- beside the choices ---------------------------------------------------------------------


def usage(end: Answered) -> dict[str, Any]:
    """OpenAI's token counts; those of speculation only where there was any."""
    counts: dict[str, Any] = {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
    }
    if end.timing.drafted:
        counts["completion_tokens_details"] = {
            "accepted_prediction_tokens": end.timing.accepted,
            "rejected_prediction_tokens": end.timing.drafted - end.timing.accepted,
        }
    return counts


def fingerprint(end: Answered) -> str:
    """Which weights answered: the start of their digest, in OpenAI's form."""
    return f"fp_{end.model_digest[:16]}"


def service_tier(call: GenerateCall) -> str:
    """OpenAI's name for the priority that served the call."""
    return "flex" if call.priority == "batch" else "default"


def served_by(end: Answered) -> dict[str, Any]:
    """What is notable about who answered: model, cache, degraded, notices; nothing where it is
    not known."""
    return {**_served(end), **({"notices": list(end.notices)} if end.notices else {})}


def _served(end: Answered) -> dict[str, str]:
    told = {"model": end.model, "cache": end.cache, "degraded": end.degraded}
    return {name: value for name, value in told.items() if value}


def served_headers(end: Answered) -> tuple[tuple[bytes, bytes], ...]:
    """The same as response headers."""
    known = tuple(
        (f"x-exclave-{name}".encode(), value.encode("ascii", "replace"))
        for name, value in _served(end).items()
    )
    return (*known, *notice_headers(end.notices))
