"""Messages, tools and answer forms of OpenAI's chat, as the decision path takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from exclave_agent.errors import BadRequest
from exclave_agent.ports import Message, Tool, ToolCall

from .openai_bodies import ChatBody, ChatMessage, NamedTool, ResponseFormat, ToolBody, ToolCallBody

OBJECT_SCHEMA = '{"type":"object"}'
"""What response_format json_object asks for."""
NO_ARGUMENTS = '{"type":"object","properties":{},"additionalProperties":false}'
"""Of a function that says nothing of its parameters: OpenAI takes it for one without."""
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""Templates know the older roles; OpenAI documents developer as the successor of system."""
_UNSUPPORTED = ("refusal", "audio", "function_call")
_CHOICES = ("auto", "none", "required")


# --- messages -------------------------------------------------------------------------------


def messages(sent: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation. Raises: BadRequest naming the message and its field."""
    names: dict[str, str] = {}
    """Of the functions called so far, by call id."""
    read = []
    for index, each in enumerate(sent):
        message = _message(each, f"messages[{index}]", names)
        names.update((call.id, call.name) for call in message.tool_calls)
        read.append(message)
    return tuple(read)


def _message(message: ChatMessage, place: str, names: Mapping[str, str]) -> Message:
    for name in _UNSUPPORTED:
        if getattr(message, name):
            raise _unsupported(f"{place}.{name}")
    role = _ROLES.get(message.role)
    if role is None:
        raise BadRequest(
            f"{place}.role: not one of {', '.join(_ROLES)}",
            param=f"{place}.role",
        )
    if message.tool_calls and role != "assistant":
        raise BadRequest(
            f"{place}.tool_calls: only in an assistant's message", param=f"{place}.tool_calls"
        )
    calls = tuple(
        _tool_call(call, f"{place}.tool_calls[{at}]")
        for at, call in enumerate(message.tool_calls or ())
    )
    answers = _answered_call(message, place, role, names)
    if message.content is None and not calls:
        raise BadRequest(f"{place}.content is required", param=f"{place}.content")
    return Message(
        role,
        _content(message, place),
        tool_calls=calls,
        tool_call_id=answers,
        name=names[answers] if answers else message.name or "",
    )


def _answered_call(message: ChatMessage, place: str, role: str, names: Mapping[str, str]) -> str:
    """The id of the call whose result this is; "": it is none."""
    param = f"{place}.tool_call_id"
    if role != "tool":
        if message.tool_call_id is not None:
            raise BadRequest(f"{param}: only in a tool's message", param=param)
        return ""
    if message.tool_call_id is None:
        raise BadRequest(f"{param} is required", param=param, code="missing_parameter")
    if message.tool_call_id not in names:
        raise BadRequest(f"{param}: no assistant's message before it has that call", param=param)
    return message.tool_call_id


def _tool_call(call: ToolCallBody, place: str) -> ToolCall:
    if call.type != "function" or call.custom is not None:
        raise _unsupported(f"{place}.type", 'only "function" is')
    if call.function is None:
        raise BadRequest(
            f"{place}.function is required", param=f"{place}.function", code="missing_parameter"
        )
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _content(message: ChatMessage, place: str) -> str:
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for at, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f'{place}.content[{at}]: only parts of type "text", with a text, are supported',
                param=f"{place}.content[{at}]",
            )
        texts.append(part.text)
    return "".join(texts)


def _unsupported(param: str, hint: str = "") -> BadRequest:
    return BadRequest(
        f"{param}: not supported by this agent" + (f"; {hint}" if hint else ""),
        param=param,
        code="unsupported_parameter",
    )


# --- tools ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions on offer, and which may or must be called."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    name: str = ""
    parallel: bool = True


def tool_use(request: ChatBody) -> ToolUse:
    """What the request says of tools. Raises: BadRequest naming the field."""
    tools = tuple(_tool(each, f"tools[{at}]") for at, each in enumerate(request.tools or ()))
    if len({tool.name for tool in tools}) != len(tools):
        raise BadRequest("tools: two of them have one name", param="tools")
    choice, name = _choice(request.tool_choice)
    if choice == "required" and not tools:
        raise BadRequest(
            "tool_choice: asks for a call, and there are no tools", param="tool_choice"
        )
    if name and name not in {tool.name for tool in tools}:
        raise BadRequest("tool_choice: names a function that tools does not", param="tool_choice")
    parallel = request.parallel_tool_calls is not False
    return ToolUse(tools, choice, name, parallel)


def _tool(tool: ToolBody, place: str) -> Tool:
    if tool.type != "function" or tool.custom is not None:
        raise _unsupported(f"{place}.type", 'only "function" is')
    function = tool.function
    if function is None:
        raise BadRequest(
            f"{place}.function is required", param=f"{place}.function", code="missing_parameter"
        )
    param = f"{place}.function.parameters"
    schema = json_text(function.parameters)
    if schema in ("", "null"):
        schema = NO_ARGUMENTS
    elif not schema.startswith("{"):
        raise BadRequest(f"{param}: not a JSON Schema object", param=param)
    return Tool(function.name, function.description or "", schema)


def _choice(sent: str | NamedTool | None) -> tuple[str, str]:
    """The choice, and the name of the only function that may be called, if it names one."""
    if sent is None:
        return "auto", ""
    if isinstance(sent, str):
        if sent not in _CHOICES:
            raise BadRequest(
                f"tool_choice: not one of {', '.join(_CHOICES)} or a named function",
                param="tool_choice",
            )
        return sent, ""
    if sent.type != "function" or sent.function is None:
        raise _unsupported("tool_choice", 'an object names one "function"')
    return "required", sent.function.name


# --- the answer's form ----------------------------------------------------------------------


def schema(form: ResponseFormat | None) -> str | None:
    """The JSON Schema that the answer must match. Raises: BadRequest."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return OBJECT_SCHEMA
    if form.type != "json_schema":
        raise BadRequest(
            "response_format.type: text, json_object or json_schema; a grammar has a parameter "
            "of its own, grammar",
            param="response_format.type",
        )
    text = "" if form.json_schema is None else json_text(form.json_schema.schema)
    if not text:
        raise BadRequest(
            "response_format.json_schema.schema is required", param="response_format.json_schema"
        )
    return text


def json_text(raw: msgspec.Raw) -> str:
    """Raw JSON as text; "" when there was none. Raises: BadRequest unless it is UTF-8."""
    try:
        return bytes(raw).decode().strip()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8", code="invalid_utf8") from None
