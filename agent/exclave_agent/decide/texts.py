"""Texts: what of a call is written in words, to be looked at, and to be rewritten as a whole."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from exclave_agent.ports import Generate, Message, Tensor, Tool, ToolCall

from .calls import Call, EmbedCall, GenerateCall, InferCall, RerankCall

Rewrite: TypeAlias = Callable[[str], str]
Writable: TypeAlias = GenerateCall | EmbedCall | RerankCall
"""Calls whose texts can be replaced by others; tensors cannot."""
_ORDERS = ("system", "developer")
"""Roles whose messages are the application's own."""


def texts_of(call: Call) -> tuple[str, ...]:
    """Everything that a call says in words, names and schemas too."""
    if isinstance(call, InferCall):
        return tuple(word for tensor in call.inputs for word in strings(tensor))
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    rewritten(call, collect)
    return tuple(found)


def said(call: Call) -> str:
    """What is put before the model: neither the application's own orders to it nor the form that
    the answer is to have. One text, its parts on lines of their own."""
    if not isinstance(call, GenerateCall):
        return "\n".join(texts_of(call))
    if call.prompt is not None:
        return call.prompt
    return "\n".join(
        part
        for message in call.messages
        if message.role not in _ORDERS
        for part in (message.content, *(made.arguments for made in message.tool_calls))
        if part
    )


def asked(call: Call) -> str:
    """All that an answer may lean on: what was said, and the application's orders."""
    if isinstance(call, GenerateCall) and call.prompt is None:
        return "\n".join(message.content for message in call.messages)
    return said(call)


def rewritten(call: Writable, rewrite: Rewrite) -> Writable:
    """The same call with every text as `rewrite` has it: one walk for looking and for changing,
    so that what is looked at is what is changed."""
    if isinstance(call, EmbedCall):
        return replace(call, texts=tuple(map(rewrite, call.texts)))
    if isinstance(call, RerankCall):
        return replace(
            call, query=rewrite(call.query), documents=tuple(map(rewrite, call.documents))
        )
    return replace(
        call,
        messages=tuple(_message(each, rewrite) for each in call.messages),
        prompt=_maybe(call.prompt, rewrite),
        tools=tuple(_tool(each, rewrite) for each in call.tools),
        tool_name=rewrite(call.tool_name),
        stop=tuple(map(rewrite, call.stop)),
        response_schema=_maybe(call.response_schema, rewrite),
        grammar=_maybe(call.grammar, rewrite),
    )


def request_as(call: GenerateCall, request: Generate) -> Generate:
    """What a runtime is asked, with the texts of another writing of its call."""
    sampling = replace(
        request.sampling,
        stop=call.stop,
        json_schema=call.response_schema,
        grammar=call.grammar,
    )
    return replace(
        request,
        messages=call.messages,
        prompt=call.prompt,
        tools=call.tools,
        tool_name=call.tool_name,
        sampling=sampling,
    )


def _message(message: Message, rewrite: Rewrite) -> Message:
    return replace(
        message,
        content=rewrite(message.content),
        name=rewrite(message.name),
        tool_call_id=rewrite(message.tool_call_id),
        tool_calls=tuple(
            ToolCall(rewrite(made.id), rewrite(made.name), rewrite(made.arguments))
            for made in message.tool_calls
        ),
    )


def _tool(tool: Tool, rewrite: Rewrite) -> Tool:
    return Tool(rewrite(tool.name), rewrite(tool.description), rewrite(tool.parameters))


def _maybe(text: str | None, rewrite: Rewrite) -> str | None:
    return None if text is None else rewrite(text)


# --- tensors -------------------------------------------------------------------------------------

CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""The Open Inference Protocol's datatypes by their `struct` code; BYTES stands apart."""
MAX_VALUES = 65_536
"""Most values of one tensor that are written out."""


def packed(elements: Iterable[bytes]) -> bytes:
    """As the data of a BYTES tensor: each after its length, 4 bytes little-endian."""
    return b"".join(len(each).to_bytes(4, "little") + each for each in elements)


def strings(tensor: Tensor) -> Iterator[str]:
    """The elements of a BYTES tensor, what is no UTF-8 replaced; none of any other."""
    if tensor.datatype != "BYTES":
        return
    data, place = bytes(tensor.data), 0
    while place + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, place)
        yield data[place + 4 : place + 4 + size].decode("utf-8", "replace")
        place += 4 + size


def values(tensor: Tensor) -> Sequence[str | int | float | bool]:
    """A tensor's values in order. Raises: ValueError for too many of them."""
    if tensor.datatype == "BYTES":
        found = tuple(strings(tensor))
        if len(found) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        return found
    code = CODES.get(tensor.datatype)
    if code is None:
        raise ValueError(f"values of the datatype {tensor.datatype[:8]} are not known")
    count, rest = divmod(len(tensor.data), struct.calcsize(f"<{code}"))
    if rest or count > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values, or not a whole number of them")
    return struct.unpack(f"<{count}{code}", tensor.data)


def least_certain(tensor: Tensor) -> float:
    """The smallest, over its rows, of the largest value of each; rows are along the last axis.
    0.0 where there is none, or one that is no number. Raises: ValueError."""
    numbers = [float(each) for each in values(tensor) if not isinstance(each, str)]
    width = tensor.shape[-1] if tensor.shape else 1
    if not numbers or width < 1 or any(map(math.isnan, numbers)):
        return 0.0
    return min(max(numbers[start : start + width]) for start in range(0, len(numbers), width))
