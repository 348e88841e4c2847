"""The table of OpenAI's parameters: understood, without effect, or refused by name.

docs/compatibility.md says the same in prose; a test holds both against the running API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from exclave_agent.errors import BadRequest

Support: TypeAlias = Literal["supported", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What becomes of one parameter of a request body."""

    support: Support
    neutral: tuple[Any, ...] = ()
    """Of a refused one: values that ask for nothing but what is done anyway."""
    hint: str = ""
    """Of a refused one: what to do instead."""


_YES = Parameter("supported")
_NO_EFFECT = Parameter("ignored")


def _no(*neutral: Any, hint: str = "") -> Parameter:
    return Parameter("refused", neutral, hint)


_ONE = _no(1, hint="only 1 is: send the request again for another answer")
_SHARED: dict[str, Parameter] = {
    "model": _YES,
    "max_tokens": _YES,
    "temperature": _YES,
    "top_p": _YES,
    "top_k": _YES,
    "min_p": _YES,
    "repeat_penalty": _YES,
    "frequency_penalty": _YES,
    "presence_penalty": _YES,
    "logit_bias": _YES,
    "logprobs": _YES,
    "seed": _YES,
    "stop": _YES,
    "stream": _YES,
    "stream_options": _YES,
    "grammar": _YES,
    "user": _YES,
    "metadata": _YES,
    "n": _ONE,
}
CHAT: Mapping[str, Parameter] = _SHARED | {
    "messages": _YES,
    "max_completion_tokens": _YES,
    "response_format": _YES,
    "service_tier": _YES,
    "tools": _YES,
    "tool_choice": _YES,
    "parallel_tool_calls": _YES,
    "top_logprobs": _YES,
    "store": _NO_EFFECT,
    "safety_identifier": _NO_EFFECT,
    "prompt_cache_key": _NO_EFFECT,
    "prompt_cache_options": _NO_EFFECT,
    "prompt_cache_retention": _NO_EFFECT,
    "prediction": _NO_EFFECT,
    "functions": _no([], hint="send tools instead"),
    "function_call": _no("none", "auto", hint="send tool_choice instead"),
    "modalities": _no(["text"], hint="answers are text"),
    "audio": _no(),
    "reasoning_effort": _no("none"),
    "verbosity": _no("medium"),
    "web_search_options": _no(),
    "moderation": _no(),
}
COMPLETIONS: Mapping[str, Parameter] = _SHARED | {
    "prompt": _YES,
    "echo": _no(False),
    "best_of": _ONE,
    "suffix": _no(""),
}
EMBEDDINGS: Mapping[str, Parameter] = {
    "model": _YES,
    "input": _YES,
    "encoding_format": _YES,
    "user": _YES,
    "metadata": _YES,
    "dimensions": _no(hint="vectors have the model's own number of dimensions"),
}
RERANK: Mapping[str, Parameter] = {
    "model": _YES,
    "query": _YES,
    "documents": _YES,
    "top_n": _YES,
    "return_documents": _YES,
    "user": _YES,
    "metadata": _YES,
    "max_tokens_per_doc": _no(hint="documents are never cut"),
    "rank_fields": _no(hint="a document is a string or its text"),
}


def refuse(request: msgspec.Struct, table: Mapping[str, Parameter]) -> None:
    """Raises: BadRequest naming the first refused parameter that asks for something."""
    for name, parameter in table.items():
        if parameter.support != "refused":
            continue
        value = getattr(request, name)
        if value is None or _is_one_of(value, parameter.neutral):
            continue
        hint = f"; {parameter.hint}" if parameter.hint else ""
        raise BadRequest(
            f"{name}: not supported by this agent{hint}", param=name, code="unsupported_parameter"
        )


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    # True == 1 in Python, and is not n=1.
    return any(type(value) is type(each) and value == each for each in allowed)
