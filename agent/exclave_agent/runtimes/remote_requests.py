"""What is sent to a remote endpoint: the request in OpenAI's words, and nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from exclave_agent.errors import BadRequest
from exclave_agent.ports import Generate, Message, Sampling, Tool
from exclave_protocol.endpoint import Endpoint

NEW_LIMIT: Final = ("openai", "azure", "bedrock")
"""Call the limit `max_completion_tokens`; the others know `max_tokens`, as all once did."""
OPEN_ENGINES: Final = ("vllm", "compatible")
"""Servers of open engines: they know more parameters, and have defaults of their own, so that
ours are said."""
EXTENSIONS: Final = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
"""Parameters that OpenAI's API has not, and their value when off."""
PENALTY: Final = {"vllm": "repetition_penalty", "compatible": "repeat_penalty"}
OVERHEAD: Final = 64
"""Tokens that a provider's template adds at most to a conversation, and OVERHEAD_EACH to each of
its messages and tools: what is counted when the provider does not count."""
OVERHEAD_EACH: Final = 16

Body = dict[str, Any]


def chat(endpoint: Endpoint, request: Generate) -> Body:
    """The body of POST /chat/completions. `request.caller` is not in it.

    Raises: BadRequest naming a parameter that this provider does not know.
    """
    chosen = request.sampling
    body = _begin(endpoint, chosen)
    limit = "max_completion_tokens" if endpoint.provider in NEW_LIMIT else "max_tokens"
    body[limit] = chosen.max_tokens
    body["messages"] = [_message(one) for one in request.messages]
    if chosen.top_logprobs is not None:
        body["logprobs"] = True
        if chosen.top_logprobs:
            body["top_logprobs"] = chosen.top_logprobs
    if chosen.json_schema is not None:
        schema = _schema(chosen.json_schema, "response_format")
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": strict(schema)},
        }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    return body


def complete(endpoint: Endpoint, request: Generate) -> Body:
    """The body of POST /completions. Raises: as `chat`."""
    chosen = request.sampling
    if chosen.json_schema is not None and endpoint.provider != "vllm":
        raise BadRequest(
            "response_format: a remote model takes it in chat requests only",
            param="response_format",
        )
    body = _begin(endpoint, chosen)
    body["prompt"] = request.prompt
    body["max_tokens"] = chosen.max_tokens
    if chosen.top_logprobs is not None:
        body["logprobs"] = chosen.top_logprobs
    if chosen.json_schema is not None:
        body["structured_outputs"] = {"json": _schema(chosen.json_schema, "response_format")}
    return body


def embed(endpoint: Endpoint, texts: Sequence[str]) -> Body:
    """The body of POST /embeddings."""
    return {"model": _model(endpoint), "input": list(texts), "encoding_format": "float"}


def most_prompt_tokens(endpoint: Endpoint, request: Generate) -> int:
    """No prompt of this request has more: a token is a byte at least, and templates add little.

    What is booked when a provider does not count, so that a budget never loses by it.
    """
    texts = sum(len(text.encode("utf-8", "replace")) for text in _texts(request))
    most = texts + OVERHEAD + OVERHEAD_EACH * (len(request.messages) + len(request.tools))
    return min(most, endpoint.context_tokens) if endpoint.context_tokens else most


def most_input_tokens(texts: Sequence[str]) -> int:
    """The same of texts to embed."""
    return sum(len(text.encode("utf-8", "replace")) + OVERHEAD_EACH for text in texts)


def strict(schema: object) -> bool:
    """Whether a schema is of the subset that OpenAI's strict mode takes: every object closed, and
    each of its properties required. Others are asked for without it, and validated here."""
    if isinstance(schema, list):
        return all(strict(one) for one in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if not isinstance(properties, dict) or set(required) != set(properties):
            return False
    return all(strict(one) for one in schema.values())


def _begin(endpoint: Endpoint, chosen: Sampling) -> Body:
    body: Body = {
        "model": _model(endpoint),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    open_engine = endpoint.provider in OPEN_ENGINES
    for name in ("temperature", "top_p"):
        value = getattr(chosen, name)
        # Some of OpenAI's models take no temperature at all: its own default is left out.
        if open_engine or value != 1.0:
            body[name] = value
    for name in ("frequency_penalty", "presence_penalty"):
        if value := getattr(chosen, name):
            body[name] = value
    if chosen.seed is not None:
        body["seed"] = chosen.seed
    if chosen.stop:
        body["stop"] = list(chosen.stop)
    if chosen.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in chosen.logit_bias}
    if endpoint.provider == "openai":
        body["store"] = False
    return body | _extensions(endpoint, chosen)


def _extensions(endpoint: Endpoint, chosen: Sampling) -> Body:
    """Parameters beyond OpenAI's, where the provider knows them."""
    body: Body = {}
    for name, off in EXTENSIONS.items():
        if (value := getattr(chosen, name)) == off:
            continue
        if endpoint.provider not in OPEN_ENGINES:
            raise BadRequest(
                f"{name}: a remote model of {endpoint.provider} does not know it", param=name
            )
        known = PENALTY[endpoint.provider] if name == "repeat_penalty" else name
        body[known] = value
    if chosen.grammar is not None:
        if endpoint.provider != "vllm":
            raise BadRequest(
                f"grammar: a remote model of {endpoint.provider} does not know it", param="grammar"
            )
        body["structured_outputs"] = {"grammar": chosen.grammar}
    return body


def _model(endpoint: Endpoint) -> str:
    # Azure's deployment is in the path, and the body's model must agree with it.
    return endpoint.deployment or endpoint.model


def _message(message: Message) -> Body:
    body: Body = {"role": message.role, "content": message.content}
    if message.role == "tool":
        return body | {"tool_call_id": message.tool_call_id}
    if message.name:
        body["name"] = message.name
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return body


def _tool(tool: Tool) -> Body:
    function: Body = {"name": tool.name, "parameters": _schema(tool.parameters, "tools")}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _choice(request: Generate) -> str | Body:
    if request.tool_choice == "required" and request.tool_name:
        return {"type": "function", "function": {"name": request.tool_name}}
    return request.tool_choice


def _schema(text: str, param: str) -> object:
    try:
        schema: object = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(f"{param}: a JSON Schema is not JSON", param=param) from None
    return schema


def _texts(request: Generate) -> Iterator[str]:
    yield request.prompt or ""
    yield request.sampling.json_schema or ""
    yield request.sampling.grammar or ""
    for message in request.messages:
        yield from (message.role, message.content, message.name, message.tool_call_id)
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    for tool in request.tools:
        yield from (tool.name, tool.description, tool.parameters)
