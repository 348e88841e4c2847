"""What a condition can see: the declared names, their types, and where their values come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from exclave_policy.model import UNBOUNDED, Request

TypeName = Literal["string", "int", "bool", "list(string)"]


@dataclass(frozen=True, slots=True)
class Variable:
    """One declared name."""

    type: TypeName
    meaning: str
    read: Callable[[Request], str | int | bool | list[str]]


VARIABLES: Mapping[str, Variable] = {
    "request.action": Variable(
        "string", "chat, complete, embed, rerank or infer", lambda r: r.action
    ),
    "request.model": Variable("string", "the model's name", lambda r: r.model),
    "request.data_class": Variable(
        "string", 'the caller\'s label of the data; "" when there is none', lambda r: r.data_class
    ),
    "request.max_tokens": Variable(
        "int",
        f"tokens of answer asked for; {UNBOUNDED} when the request names no maximum",
        lambda r: UNBOUNDED if r.max_tokens is None else r.max_tokens,
    ),
    "request.stream": Variable("bool", "whether the answer is streamed", lambda r: r.stream),
    "request.message_count": Variable(
        "int", "messages of a chat; 0 for other actions", lambda r: r.message_count
    ),
    "request.prompt_bytes": Variable(
        "int", "size of what the caller sent, in bytes", lambda r: r.prompt_bytes
    ),
    "subject.id": Variable("string", "the caller's public id", lambda r: r.subject),
    "subject.roles": Variable("list(string)", "the caller's roles", lambda r: list(r.roles)),
    "time.hour": Variable("int", "0..23, UTC", lambda r: r.hour),
    "time.weekday": Variable("int", "0 Monday .. 6 Sunday, UTC", lambda r: r.weekday),
}


def activation(request: Request) -> dict[str, str | int | bool | list[str]]:
    """The request as conditions see it: every declared name, always."""
    return {name: variable.read(request) for name, variable in VARIABLES.items()}
