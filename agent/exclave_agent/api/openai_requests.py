"""From OpenAI's request bodies to calls: what is understood, and what is refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from exclave_agent.decide.calls import EmbedCall, GenerateCall, RerankCall
from exclave_agent.errors import BadRequest
from exclave_agent.ports import Caller

from . import openai_bodies as bodies
from . import openai_messages as chat_parts
from . import openai_parameters as parameters
from .headers import Treatment
from .parse import label, parse

_DATA_CLASS = "data_class"
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")
_MAX_TOKEN_ID = 2**31 - 1
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
_IDS = (
    "only strings are supported, not token ids: those of another tokenizer would say something "
    "else to this model"
)
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request it is, and how it is to be treated."""

    decision: str
    caller: Caller
    treatment: Treatment


@dataclass(frozen=True, slots=True)
class Options:
    """How a generated answer is told, beside what is in its call."""

    include_usage: bool = False
    tiered: bool = False
    """The request named a service tier: the answer names the one that served it."""


def chat(body: bytes, origin: Origin) -> tuple[GenerateCall, Options]:
    """A chat request as a call. Raises: BadRequest."""
    request = parse(bodies.chat, body)
    parameters.refuse(request, parameters.CHAT)
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise BadRequest(
            "max_tokens and max_completion_tokens: give one of them", param="max_tokens"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("top_logprobs: only with logprobs set", param="top_logprobs")
    use = chat_parts.tool_use(request)
    schema = chat_parts.schema(request.response_format)
    _one_constraint(request, schema, use)
    given = _generated(request, origin)
    if _is_flex(request.service_tier):
        given.setdefault("priority", "batch")
    call = GenerateCall(
        action="chat",
        messages=chat_parts.messages(request.messages),
        response_schema=schema,
        max_tokens=request.max_tokens or request.max_completion_tokens,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        tools=use.tools,
        tool_choice=use.choice,
        tool_name=use.name,
        parallel_tool_calls=use.parallel,
        **given,
    )
    return call, _options(request, tiered=request.service_tier is not None)


def completion(body: bytes, origin: Origin) -> tuple[GenerateCall, Options]:
    """A text completion request as a call. Raises: BadRequest."""
    request = parse(bodies.completion, body)
    parameters.refuse(request, parameters.COMPLETIONS)
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise BadRequest(
                "prompt: a string or a list of one string: one request is one decision, and "
                + _IDS,
                param="prompt",
            )
        prompt = prompt[0]
    call = GenerateCall(
        action="complete",
        prompt=prompt,
        max_tokens=request.max_tokens,
        top_logprobs=request.logprobs,
        **_generated(request, origin),
    )
    return call, _options(request, tiered=False)


def embedding(body: bytes, origin: Origin) -> tuple[EmbedCall, str]:
    """An embedding request as a call, and the form of its vectors. Raises: BadRequest."""
    request = parse(bodies.embedding, body)
    parameters.refuse(request, parameters.EMBEDDINGS)
    form = request.encoding_format or "float"
    if form not in ("float", "base64"):
        raise BadRequest("encoding_format: float or base64", param="encoding_format")
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not 1 <= len(texts) <= 2048:
        raise BadRequest("input: 1 to 2048 texts", param="input")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(f"input[{index}]: {_IDS}", param="input")
        if not text:
            raise BadRequest(f"input[{index}]: is empty", param="input")
    return EmbedCall(texts=tuple(texts), **_whose(request, origin)), form


@dataclass(frozen=True, slots=True)
class RerankOptions:
    """How a ranking is told."""

    top_n: int | None
    """None: all."""
    documents: bool
    """Send the documents back beside their scores."""


def rerank(body: bytes, origin: Origin) -> tuple[RerankCall, RerankOptions]:
    """A rerank request as a call. Raises: BadRequest."""
    request = parse(bodies.rerank, body)
    parameters.refuse(request, parameters.RERANK)
    documents = tuple(each if isinstance(each, str) else each.text for each in request.documents)
    for index, text in enumerate(documents):
        if not text:
            raise BadRequest(f"documents[{index}]: is empty", param="documents")
    call = RerankCall(query=request.query, documents=documents, **_whose(request, origin))
    return call, RerankOptions(request.top_n, bool(request.return_documents))


# --- what several have in common ------------------------------------------------------------


def _whose(
    request: bodies.Common | bodies.EmbeddingBody | bodies.RerankBody, origin: Origin
) -> dict[str, Any]:
    """The fields that every call has."""
    treatment = origin.treatment
    if not isinstance(request, bodies.Common):
        treatment = treatment.only_common()
    return {
        "decision": origin.decision,
        "model": request.model,
        "caller": origin.caller,
        "subject": request.user or origin.caller.key_id,
        "data_class": _data_class(treatment.data_class, request.metadata),
        "workflow": treatment.workflow,
        "run": treatment.run,
    }


def _generated(request: bodies.Common, origin: Origin) -> dict[str, Any]:
    """The fields that every call for text has, where they were given: the call knows the
    defaults."""
    given = {
        **_whose(request, origin),
        **origin.treatment.of_generated(),
        "stream": bool(request.stream),
        "seed": request.seed,
        "grammar": request.grammar,
        "logit_bias": _biases(request.logit_bias or {}),
    }
    for name in _SAMPLING:
        value = getattr(request, name)
        if value is not None:
            given[name] = value
    if request.stop:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
        if len(given["stop"][0]) > 256:
            raise BadRequest("stop: longer than 256 characters", param="stop")
    return given


def _biases(sent: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for token in sent:
        if not _TOKEN_ID.fullmatch(token) or int(token) > _MAX_TOKEN_ID:
            raise BadRequest(
                f"logit_bias: a key is not a token id, 0 to {_MAX_TOKEN_ID}", param="logit_bias"
            )
    return tuple(sorted((int(token), bias) for token, bias in sent.items()))


def _one_constraint(request: bodies.ChatBody, schema: str | None, use: chat_parts.ToolUse) -> None:
    """A grammar says all of an answer; a schema leaves room for calls instead of it."""
    calls = bool(use.tools) and use.choice != "none"
    if request.grammar is not None and (schema is not None or calls):
        raise BadRequest("grammar: not together with response_format or tools", param="grammar")


def _is_flex(tier: str | None) -> bool:
    if tier is not None and tier not in _TIERS:
        raise BadRequest(f"service_tier: not one of {', '.join(_TIERS)}", param="service_tier")
    return tier == "flex"


def _options(request: bodies.Common, *, tiered: bool) -> Options:
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options: only with stream set", param="stream_options")
    stream = request.stream_options
    return Options(include_usage=bool(stream and stream.include_usage), tiered=tiered)


def _data_class(header: str, metadata: dict[str, str] | None) -> str:
    """The header's label; else that of metadata."""
    if header or not metadata:
        return header
    return label(metadata.get(_DATA_CLASS, ""), f"metadata.{_DATA_CLASS}")
