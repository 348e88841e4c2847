"""Turns messages into tokens by the model's own template, so that no message can pose as it.

A chat template marks turns with control tokens such as <|im_start|>. Text of a message that
spells one must stay text. Before rendering, each character of a message that could begin a
control token is moved to a private code point: the template still sees whole messages (it
may trim and compare them), and afterwards the control tokens found are the template's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import ChatMessage
from exclave_agent.runtimes.slots import shared

Tokenise = Callable[[str, bool, bool], list[int]]
"""(text, add the model's begin token, read control tokens) -> tokens."""

_PRIVATE = range(0xF0000, 0xFFF00, 0x100)
"""Starts of blocks in supplementary private use area A; a block holds U+0000..U+00FF moved."""

_ROLE = re.compile("[a-z][a-z_]{0,31}")
"""A role is pasted between control tokens as it is, so it may not hold one."""


class Template:
    """One model's chat template, compiled in Jinja's sandbox.

    Raises: ValueError when the source is not a template.
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
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"chat template: {error}") from error
        self._bos = bos
        self._adds_bos = adds_bos
        self._eos = eos
        self._tokenise = tokenise
        longest_first = sorted((text for text in controls if text), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._risky = {text[0] for text in longest_first if ord(text[0]) < 0x100}

    def tokens(self, messages: Sequence[ChatMessage]) -> tuple[list[int], int]:
        """The prompt that asks for the assistant's next message, and how many of its tokens
        come before anything but system messages: the template's words and the instructions.

        Raises: Refused("invalid_value") when a role or the template refuses the messages.
        """
        if not all(_ROLE.fullmatch(message.role) for message in messages):
            raise Refused("invalid_value", "messages: not a role name", param="messages")
        block = self._free_block(messages)
        moved = {ord(char): block + ord(char) for char in self._risky}
        prompt = self._render([(one.role, one.content.translate(moved)) for one in messages])
        if self._adds_bos and self._bos and prompt.startswith(self._bos):
            # The tokeniser puts one there itself; the model was trained on one.
            prompt = prompt[len(self._bos) :]
        back = {there: here for here, there in moved.items()}
        tokens = self._read(prompt, back)
        # Where a content is found earlier than it stands, less is shared, never more; where
        # the template changed it (-1), nothing is.
        at = min(
            (
                prompt.find(one.content.strip().translate(moved))
                for one in messages
                if one.role != "system"
            ),
            default=0,
        )
        return tokens, shared(self._read(prompt[:at], back), tokens) if at > 0 else 0

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

    def _free_block(self, messages: Sequence[ChatMessage]) -> int:
        """A block of private code points that no message uses."""
        used = {
            ord(char) & ~0xFF
            for message in messages
            if not message.content.isascii()
            for char in message.content
        }
        for block in _PRIVATE:
            if block not in used:
                return block
        raise Refused(
            "invalid_value", "messages: every private code block is used", param="messages"
        )

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
            # What the template says may quote the messages: it is not passed on.
            raise Refused(
                "invalid_value",
                "messages: the model's chat template refuses these roles or their order",
                param="messages",
            ) from None


def _raise(message: str) -> None:
    """`raise_exception` of the templates: a refusal of these messages."""
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """`tojson` of the templates; Jinja's own escapes HTML, which models never saw."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
