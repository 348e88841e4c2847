"""OpenAI's request bodies: what is understood, what is refused by name, what OpenAI ignores."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from exclave_agent.decide.calls import EmbedCall, GenerateCall
from exclave_agent.errors import BadRequest
from exclave_agent.ports import Caller, Message

from .parse import label, parse

Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TopK = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Stop = Annotated[str, Meta(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Meta(max_length=4)]
User = Annotated[str, Meta(max_length=256)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
Texts = Annotated[list[str], Meta(min_length=1, max_length=2048)]

OBJECT_SCHEMA = '{"type":"object"}'
"""What response_format json_object asks for."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Templates know the three older roles; OpenAI documents developer as the successor of system."""
_DATA_CLASS = "data_class"


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message as sent."""

    role: str
    content: str | list[Part] | None = None
    name: Any = None
    refusal: Any = None
    audio: Any = None
    annotations: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream holds besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """The schema of response_format json_schema."""

    name: str
    schema: msgspec.Raw = msgspec.Raw()
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """In which form the answer is wanted."""

    type: str
    json_schema: JsonSchema | None = None


class Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat and text completions share."""

    model: str
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: User | None = None
    metadata: Metadata | None = None
    # Refused unless they say what is done anyway.
    n: Any = None
    logit_bias: Any = None
    logprobs: Any = None


class ChatBody(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    # Without effect on the answer, as OpenAI documents them.
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    # Refused unless they say what is done anyway.
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    top_logprobs: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None


class CompletionBody(Common):
    """POST /v1/completions."""

    prompt: str | list[Any]
    # Refused unless they say what is done anyway.
    echo: Any = None
    best_of: Any = None
    suffix: Any = None


class EmbeddingBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/embeddings."""

    model: str
    input: str | list[Any]
    encoding_format: str | None = None
    dimensions: Any = None
    user: User | None = None
    metadata: Metadata | None = None


_CHAT = msgspec.json.Decoder(ChatBody)
_COMPLETION = msgspec.json.Decoder(CompletionBody)
_EMBEDDING = msgspec.json.Decoder(EmbeddingBody)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
_NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "logprobs": (),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}
_NEUTRAL_MESSAGE = ("name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call")


def chat(
    body: bytes, decision: str, caller: Caller, data_class: str
) -> tuple[GenerateCall, StreamOptions]:
    """A chat request as a call. Raises: BadRequest."""
    request = parse(_CHAT, body)
    _refuse(request, _NEUTRAL)
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise BadRequest(
            "max_tokens and max_completion_tokens: give one of them", param="max_tokens"
        )
    messages = tuple(_message(each, index) for index, each in enumerate(request.messages))
    call = GenerateCall(
        decision=decision,
        action="chat",
        model=request.model,
        caller=caller,
        subject=request.user or caller.key_id,
        data_class=_data_class(data_class, request.metadata),
        messages=messages,
        response_schema=_schema(request.response_format),
        max_tokens=request.max_tokens or request.max_completion_tokens,
        **_sampling(request),
    )
    return call, _stream_options(request)


def completion(
    body: bytes, decision: str, caller: Caller, data_class: str
) -> tuple[GenerateCall, StreamOptions]:
    """A text completion request as a call. Raises: BadRequest."""
    request = parse(_COMPLETION, body)
    _refuse(request, _NEUTRAL_COMPLETION)
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise BadRequest(
                "prompt: a string or a list of one string; token ids and several prompts are "
                "not supported",
                param="prompt",
            )
        prompt = prompt[0]
    call = GenerateCall(
        decision=decision,
        action="complete",
        model=request.model,
        caller=caller,
        subject=request.user or caller.key_id,
        data_class=_data_class(data_class, request.metadata),
        prompt=prompt,
        max_tokens=request.max_tokens,
        **_sampling(request),
    )
    return call, _stream_options(request)


def embedding(body: bytes, decision: str, caller: Caller, data_class: str) -> tuple[EmbedCall, str]:
    """An embedding request as a call, and the form of its vectors. Raises: BadRequest."""
    request = parse(_EMBEDDING, body)
    if request.dimensions is not None:
        raise BadRequest(
            "dimensions: not supported; the model's own number is returned", param="dimensions"
        )
    form = request.encoding_format or "float"
    if form not in ("float", "base64"):
        raise BadRequest("encoding_format: float or base64", param="encoding_format")
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not 1 <= len(texts) <= 2048:
        raise BadRequest("input: 1 to 2048 texts", param="input")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(
                f"input[{index}]: only strings are supported, not token ids", param="input"
            )
        if not text:
            raise BadRequest(f"input[{index}]: is empty", param="input")
    call = EmbedCall(
        decision=decision,
        model=request.model,
        caller=caller,
        subject=request.user or caller.key_id,
        data_class=_data_class(data_class, request.metadata),
        texts=tuple(texts),
    )
    return call, form


def _refuse(request: msgspec.Struct, neutral: dict[str, tuple[Any, ...]]) -> None:
    for name, allowed in neutral.items():
        value = getattr(request, name)
        if value is None:
            continue
        # True == 1 in Python, and is not n=1.
        if not any(type(value) is type(each) and value == each for each in allowed):
            hint = "; only 1 is" if name in ("n", "best_of") else ""
            raise BadRequest(
                f"{name}: not supported by this agent{hint}",
                param=name,
                code="unsupported_parameter",
            )


def _message(message: ChatMessage, index: int) -> Message:
    place = f"messages[{index}]"
    for name in _NEUTRAL_MESSAGE:
        if getattr(message, name):
            raise BadRequest(
                f"{place}.{name}: not supported by this agent",
                param=f"{place}.{name}",
                code="unsupported_parameter",
            )
    role = _ROLES.get(message.role)
    if role is None:
        raise BadRequest(
            f"{place}.role: system, developer, user or assistant", param=f"{place}.role"
        )
    content = message.content
    if content is None:
        raise BadRequest(f"{place}.content is required", param=f"{place}.content")
    if isinstance(content, str):
        return Message(role, content)
    texts = []
    for at, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f'{place}.content[{at}]: only parts of type "text", with a text, are supported',
                param=f"{place}.content[{at}]",
            )
        texts.append(part.text)
    return Message(role, "".join(texts))


def _schema(form: ResponseFormat | None) -> str | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return OBJECT_SCHEMA
    if form.type != "json_schema":
        raise BadRequest(
            "response_format.type: text, json_object or json_schema", param="response_format.type"
        )
    if form.json_schema is None or not bytes(form.json_schema.schema):
        raise BadRequest(
            "response_format.json_schema.schema is required", param="response_format.json_schema"
        )
    try:
        return bytes(form.json_schema.schema).decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8", code="invalid_utf8") from None


def _sampling(request: Common) -> dict[str, Any]:
    """The fields that were given; the call knows the defaults."""
    given: dict[str, Any] = {
        "stream": bool(request.stream),
        "seed": request.seed,
    }
    for name in (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
    ):
        value = getattr(request, name)
        if value is not None:
            given[name] = value
    if request.stop:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
        if len(given["stop"][0]) > 256:
            raise BadRequest("stop: longer than 256 characters", param="stop")
    return given


def _stream_options(request: Common) -> StreamOptions:
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options: only with stream set", param="stream_options")
    return request.stream_options or StreamOptions()


def _data_class(header: str, metadata: dict[str, str] | None) -> str:
    """The header's label; else that of metadata."""
    if header or not metadata:
        return header
    return label(metadata.get(_DATA_CLASS, ""), f"metadata.{_DATA_CLASS}")
