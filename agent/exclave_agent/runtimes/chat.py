"""Turns messages into tokens by the model's own template, so that no message can pose as it.

A chat template marks turns with control tokens such as <|im_start|>. Text of a message that
spells one must stay text. Before rendering, each character of a message that could begin a
control token is moved to a private code point: the template still sees whole messages (it
may trim and compare them), and afterwards the control tokens found are the template's own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, meta

from exclave_agent.runtimes import tools as calls
from exclave_agent.runtimes.chat_sandbox import MAX_SOURCE, Overrun, Sandbox
from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import ChatMessage, ToolFrame
from exclave_agent.runtimes.prefix import shared

Tokenise = Callable[[str, bool, bool], list[int]]
"""(text, add the model's begin token, read control tokens) -> tokens."""

_PRIVATE = range(0xF0000, 0xFFF00, 0x100)
"""Starts of blocks in supplementary private use area A; a block holds U+0000..U+00FF moved."""

_ROLE = re.compile("[a-z][a-z_]{0,31}")
"""A role is pasted between control tokens as it is, so it may not hold one."""

_FAILURES = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
             RecursionError)  # fmt: skip
"""What a template raises that cannot do with these messages."""

_Value = Any
"""A value of JSON."""


class Template:
    """One model's chat template, compiled in a sandbox.

    Raises: ValueError when the source is not a template, or one that knows no measure.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str,
        eos: str,
        adds_bos: bool,
        controls: Sequence[str],
        tokenise: Tokenise,
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise ValueError(f"chat template: over the limit of {MAX_SOURCE} characters")
        self._sandbox = Sandbox()
        try:
            self._template = self._sandbox.from_string(source)
            names = meta.find_undeclared_variables(self._sandbox.parse(source))
        except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            raise ValueError(f"chat template: {str(error)[:200]}") from error
        self._rendering = threading.Lock()
        self._bos = bos
        self._adds_bos = adds_bos
        self._eos = eos
        self._tokenise = tokenise
        longest_first = sorted((text for text in controls if text), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._risky = {text[0] for text in longest_first if ord(text[0]) < 0xFF}
        found = calls.detect(source) if "tools" in names else None
        self.native = found is not None
        """Whether the template itself tells the model of tools, in a known way."""
        self.calls = found or calls.HERMES
        """How the model writes calls."""
        try:
            self._rendered([{"role": "user", "content": "Hello."}], [])
        except Overrun as error:
            raise ValueError(f"chat template: {error} for one short message") from error
        except _FAILURES:
            pass  # It may want another conversation: that is for the requests to find out.

    def tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolFrame] = ()
    ) -> tuple[list[int], int]:
        """The prompt that asks for the assistant's next message, and how many of its tokens
        come before anything but system messages and tools: the template's words and the
        instructions.

        Raises: Refused("invalid_value") when a role or the template refuses the messages.
        """
        if not all(_ROLE.fullmatch(message.role) for message in messages):
            raise Refused("invalid_value", "messages: not a role name", param="messages")
        offered = [calls.described(tool) for tool in tools]
        talk = [_message(one, self.native) for one in messages]
        if not self.native:
            talk = calls.explained(talk, offered)
            offered = []
        block = self._free_block([talk, offered])
        moved = {ord(char): block + ord(char) for char in self._risky}
        talk, offered = _moved(talk, moved), _moved(offered, moved)
        prompt = self._render(talk, offered)
        # What differs where the others' words are different ones hangs on them.
        other = chr(block + 0xFF)
        blank = [one if one["role"] == "system" else _blank(one, other) for one in talk]
        try:
            common = _common(prompt, self._render(blank, offered))
        except Refused:
            common = 0
        back = {there: here for here, there in moved.items()}
        tokens = self._read(prompt, back)
        if all(one["role"] == "system" for one in talk):
            common = 0
        return tokens, shared(self._read(prompt[:common], back), tokens) if common else 0

    def _read(self, prompt: str, back: dict[int, int]) -> list[int]:
        """Tokens of a rendered prompt; what was moved by `back` is text, never control."""
        if not any(chr(there) in prompt for there in back):
            return self._tokenise(prompt, True, True)
        tokens: list[int] = []
        at = 0
        for control in self._control.finditer(prompt):
            tokens += self._literal(prompt[at : control.start()], back, at == 0)
            tokens += self._tokenise(control[0], at == 0 and control.start() == 0, True)
            at = control.end()
        return tokens + self._literal(prompt[at:], back, at == 0)

    def _literal(self, text: str, back: dict[int, int], first: bool) -> list[int]:
        return self._tokenise(text.translate(back), first, False) if text else []

    def _free_block(self, value: _Value) -> int:
        """A block of private code points that no text in `value` uses."""
        used = {ord(char) & ~0xFF for text in _texts(value) if not text.isascii() for char in text}
        for block in _PRIVATE:
            if block not in used:
                return block
        raise Refused(
            "invalid_value", "messages: every private code block is used", param="messages"
        )

    def _render(self, talk: list[dict[str, _Value]], tools: list[_Value]) -> str:
        try:
            prompt = self._rendered(talk, tools)
        except _FAILURES as error:
            why = str(error) if isinstance(error, Overrun) else "refuses these roles or their order"
            # What the template says may quote the messages: it is not passed on.
            raise Refused(
                "invalid_value",
                f"messages: the model's chat template: {why}",
                param="messages",
            ) from None
        if self._adds_bos and self._bos and prompt.startswith(self._bos):
            # The tokeniser puts one there itself; the model was trained on one.
            prompt = prompt[len(self._bos) :]
        return prompt

    def _rendered(self, talk: list[dict[str, _Value]], tools: list[_Value]) -> str:
        with self._rendering:
            self._sandbox.allow(len(talk), sum(map(len, _texts([talk, tools]))))
            return self._template.render(
                messages=talk,
                # Absent, not empty: templates ask whether there are any in both ways.
                tools=tools or None,
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
            )


def _message(message: ChatMessage, native: bool) -> dict[str, _Value]:
    """As templates know it; arguments are objects, which templates write as JSON."""
    made: dict[str, _Value] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool" and message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    if message.name:
        made["name"] = message.name
    return made


def _arguments(text: str) -> _Value:
    """What a call's arguments are, or the text itself where it is no JSON: a model wrote it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _texts(value: _Value) -> list[str]:
    """Every string in `value`, keys too."""
    found: list[str] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, Mapping):
            todo += one.keys()
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


def _moved(value: _Value, moved: dict[int, int]) -> _Value:
    """`value` with the characters of its texts moved; roles are names, and stay."""
    if isinstance(value, str):
        return value.translate(moved)
    if isinstance(value, dict):
        return {key.translate(moved): _moved(one, moved) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, moved) for one in value]
    return value


def _blank(value: _Value, other: str) -> _Value:
    """A message of the same shape with other words in it."""
    if isinstance(value, str):
        return other
    if isinstance(value, list):
        return [_blank(one, other) for one in value]
    if isinstance(value, dict):
        shape = ("role", "type")
        blank = {
            key: one if key in shape else _blank(one, other)
            for key, one in value.items()
            if key != "arguments"
        }
        return blank | {"arguments": {other: other}} if "arguments" in value else blank
    return value


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if other.startswith(one[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
