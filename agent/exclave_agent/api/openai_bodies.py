"""The bodies of OpenAI's API and of its neighbours' rerank, as they are sent: types and bounds."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TopK = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Stop = Annotated[str, Meta(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Meta(max_length=4)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], Meta(max_length=1024)]
User = Annotated[str, Meta(max_length=256)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
Grammar = Annotated[str, Meta(min_length=1, max_length=65_536)]
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Meta(min_length=1, max_length=256)]
MAX_TOOLS = 128
MAX_DOCUMENTS = 1024


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """Whatever is not named here is an unknown parameter."""


# --- messages -------------------------------------------------------------------------------


class Part(_Body, kw_only=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None
    prompt_cache_breakpoint: Any = None


class FunctionCall(_Body, kw_only=True):
    """What a model called."""

    name: FunctionName
    arguments: str


class ToolCallBody(_Body, kw_only=True):
    """A call in an assistant's message."""

    id: CallId
    type: str = "function"
    function: FunctionCall | None = None
    custom: Any = None


class ChatMessage(_Body, kw_only=True):
    """A message as sent."""

    role: str
    content: str | list[Part] | None = None
    name: FunctionName | None = None
    tool_calls: Annotated[list[ToolCallBody], Meta(max_length=MAX_TOOLS)] | None = None
    tool_call_id: CallId | None = None
    annotations: Any = None
    # Refused when they hold anything.
    refusal: Any = None
    audio: Any = None
    function_call: Any = None


# --- tools and forms ------------------------------------------------------------------------


class Function(_Body, kw_only=True):
    """A function on offer."""

    name: FunctionName
    description: Annotated[str, Meta(max_length=16_384)] | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    """Arguments always match their schema, strict or not."""


class ToolBody(_Body, kw_only=True):
    """A tool as sent."""

    type: str
    function: Function | None = None
    custom: Any = None


class NamedFunction(_Body, kw_only=True):
    """The function of a named tool_choice."""

    name: FunctionName


class NamedTool(_Body, kw_only=True):
    """A tool_choice that names its function."""

    type: str
    function: NamedFunction | None = None
    custom: Any = None
    allowed_tools: Any = None


class JsonSchema(_Body, kw_only=True):
    """The schema of response_format json_schema."""

    name: str
    schema: msgspec.Raw = msgspec.Raw()
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(_Body, kw_only=True):
    """In which form the answer is wanted."""

    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(_Body, kw_only=True):
    """What a stream holds besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


# --- requests -------------------------------------------------------------------------------


class Common(_Body, kw_only=True):
    """What chat and text completions share."""

    model: str
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    logit_bias: Biases | None = None
    seed: Seed | None = None
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    grammar: Grammar | None = None
    user: User | None = None
    metadata: Metadata | None = None
    n: Any = None


class ChatBody(Common, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    # Without effect on the answer, as OpenAI documents them.
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    prediction: dict[str, Any] | None = None
    # Refused unless they say what is done anyway: see openai_parameters.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None


class CompletionBody(Common, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    # Refused unless they say what is done anyway.
    echo: Any = None
    best_of: Any = None
    suffix: Any = None


class EmbeddingBody(_Body, kw_only=True):
    """POST /v1/embeddings."""

    model: str
    input: str | list[Any]
    encoding_format: str | None = None
    user: User | None = None
    metadata: Metadata | None = None
    dimensions: Any = None


class Document(_Body, kw_only=True):
    """A document that is not a bare string."""

    text: str


class RerankBody(_Body, kw_only=True):
    """POST /v1/rerank, as Jina and Cohere word it."""

    model: str
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Tokens | None = None
    return_documents: bool | None = None
    user: User | None = None
    metadata: Metadata | None = None
    max_tokens_per_doc: Any = None
    rank_fields: Any = None


chat = msgspec.json.Decoder(ChatBody)
completion = msgspec.json.Decoder(CompletionBody)
embedding = msgspec.json.Decoder(EmbeddingBody)
rerank = msgspec.json.Decoder(RerankBody)
