"""How models are told of functions and write calls of them: one small table of formats.

A model's chat template shows which format it was trained for; where it knows no tools, a
system message explains them in the format of `HERMES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import Generate, ToolFrame
from exclave_agent.runtimes.schemas import MAX_SCHEMA, inline, read_schema

_NAME = re.compile("[a-zA-Z0-9_.-]{1,64}")
"""A function's name stands in grammars and templates as it is."""

MAX_TEXT = 256 << 10
"""Characters of all tools together."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How one family of models writes calls."""

    name: str
    trigger: str
    """What begins the calls; a control token in some vocabularies."""
    only_first: bool
    """Calls are the whole answer: an answer that begins otherwise has none. The trigger may
    then be left out."""
    arguments: str
    """The key beside "name"."""
    open: str
    """Between the trigger and the first call's JSON."""
    between: str
    """Between two calls' JSON."""
    close: str
    """After the last call's JSON."""
    parallel: bool = True
    """Several calls to an answer are within the format."""


HERMES = CallFormat(
    "hermes",
    trigger="<tool_call>",
    only_first=False,
    arguments="arguments",
    open="\n",
    between="\n</tool_call>\n<tool_call>\n",
    close="\n</tool_call>",
)
MISTRAL = CallFormat(
    "mistral",
    trigger="[TOOL_CALLS]",
    only_first=False,
    arguments="arguments",
    open="[",
    between=", ",
    close="]",
)
LLAMA3 = CallFormat(
    "llama3",
    trigger="<|python_tag|>",
    only_first=True,
    arguments="parameters",
    open="",
    between="; ",
    close="",
    parallel=False,
)


def detect(template: str) -> CallFormat | None:
    """The format that a chat template's source speaks of; None: none that is known."""
    if MISTRAL.trigger in template:
        return MISTRAL
    if HERMES.trigger in template and '"arguments"' in template:
        return HERMES
    if LLAMA3.trigger in template or ("ipython" in template and '"parameters"' in template):
        return LLAMA3
    return None


# --- telling the model -----------------------------------------------------------------------


def check(request: Generate) -> Sequence[ToolFrame]:
    """The tools to offer for this request: none where no call is wanted.

    Raises: Refused naming `tools` or `tool_choice`.
    """
    names = [tool.name for tool in request.tools]
    if not all(map(_NAME.fullmatch, names)):
        raise _refused("a function's name is 1 to 64 of a-z, A-Z, 0-9, _, . and -")
    if len(set(names)) != len(names):
        raise _refused("two functions have the same name")
    size = sum(len(tool.description) + len(tool.parameters) for tool in request.tools)
    if size > MAX_TEXT:
        raise _refused(f"{size} characters, over the limit of {MAX_TEXT}")
    if request.tool_choice == "required" and not names:
        raise Refused("invalid_value", "tool_choice: there are no tools", param="tool_choice")
    if request.tool_name and request.tool_name not in names:
        raise Refused("invalid_value", "tool_choice: not one of the tools", param="tool_choice")
    if request.tool_choice == "none":
        return ()
    for tool in request.tools:
        parameters(tool)
    return request.tools


def _refused(why: str) -> Refused:
    return Refused("invalid_value", f"tools: {why}", param="tools")


def parameters(tool: ToolFrame) -> dict[str, Any]:
    """A function's schema, which is that of an object. Raises: Refused."""
    text = tool.parameters.strip()
    schema = read_schema(text, "tools", MAX_SCHEMA) if text else {}
    if schema.get("type", "object") != "object":
        raise _refused("a function's parameters are not an object")
    return {"type": "object", **schema}


def described(tool: ToolFrame) -> dict[str, Any]:
    """As chat templates know a tool."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": parameters(tool),
        },
    }


def explained(
    talk: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation for a template that knows no tools: calls and results become text, and
    the system message tells of the functions."""
    plain = [_as_text(message) for message in talk]
    if not tools:
        return plain
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    words = (
        "You may call these functions, one JSON object a line:\n"
        f"<tools>\n{lines}\n</tools>\n"
        "To call one, write its name and arguments as JSON between these tags:\n"
        '<tool_call>\n{"name": "<function>", "arguments": {<arguments>}}\n</tool_call>'
    )
    if plain and plain[0]["role"] == "system":
        first = {**plain[0], "content": f"{plain[0]['content']}\n\n{words}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": words}, *plain]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message["content"]
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    for call in message.get("tool_calls", ()):
        text = json.dumps(call["function"], ensure_ascii=False)
        content += ("\n" if content else "") + f"<tool_call>\n{text}\n</tool_call>"
    return {"role": role, "content": content}


# --- holding the model to it -----------------------------------------------------------------


def grammar(
    form: CallFormat,
    request: Generate,
    *,
    trigger_token: int | None,
    answer: Mapping[str, Any] | None,
) -> str:
    """What an answer may be, in llguidance's Lark: text (or what matches the schema `answer`)
    or calls whose arguments match their function's schema.

    `trigger_token`: the control token that the trigger is in this vocabulary.
    """
    forced = request.tool_choice == "required"
    several = request.parallel_tool_calls and form.parallel
    offered = [tool for tool in request.tools if request.tool_name in ("", tool.name)]
    trigger = _text(form.trigger) if trigger_token is None else f"<[{trigger_token}]>"
    many = f"calls: call ({_text(form.between)} call)*" if several else "calls: call"
    rules = [
        many,
        'call: "{\\"name\\": \\"" (' + " | ".join(f"f{n}" for n in range(len(offered))) + ') "}"',
    ]
    for at, tool in enumerate(offered):
        head = _text(f'{tool.name}", "{form.arguments}": ')
        rules.append(f"f{at}: {head} %json {inline(parameters(tool), lenient=True)}")
    calls = f"{_text(form.open)} calls {_text(form.close)}"
    if form.only_first:
        optional = "" if trigger_token is None else f"{trigger}? "
        start = f"start: {optional}calls"
        rules.append(r"TEXT: /[^{\s](.|\n)*/")
        other = "| TEXT?"
    elif forced or answer is not None:
        start = f"start: {trigger} {calls}"
        other = "| TEXT"
    elif trigger_token is not None:
        start = f"start: TEXT {trigger} {calls}"
        rules.append(r"TEXT: /(.|\n)*/")
        other = "| TEXT"
    else:
        start = f"start: head {calls}"
        rules += [f"head[lazy]: TEXT {trigger}", r"TEXT: /(.|\n)*/"]
        other = "| TEXT"
    if forced:
        other = ""
    elif answer is not None:
        other = f"| %json {inline(answer)}"
    return "\n".join(["%llguidance {}", f"{start} {other}", *rules]) + "\n"


def _text(text: str) -> str:
    return json.dumps(text) if text else ""
