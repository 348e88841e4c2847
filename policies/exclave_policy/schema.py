"""What a condition can see: the declared names, their types, and where their values come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exclave_policy.model import ACTIONS, UNBOUNDED, Request

TypeName = Literal["string", "int", "bool", "list(string)"]
Value: TypeAlias = str | int | bool | list[str]


@dataclass(frozen=True, slots=True)
class Variable:
    """One declared name."""

    type: TypeName
    meaning: str
    read: Callable[[Request], Value]
    choices: tuple[str, ...] = ()
    """Every value that a string, or an entry of a list, can have; none listed: any."""
    low: int = -(2**63)
    """Least value of an int."""
    high: int = UNBOUNDED


def _resource(action: str) -> Callable[[Request], str]:
    return lambda r: r.resource if r.action == action else ""


VARIABLES: Mapping[str, Variable] = {
    "request.action": Variable("string", ", ".join(ACTIONS), lambda r: r.action, ACTIONS),
    "request.model": Variable(
        "string", "the name asked for: a model or a route", lambda r: r.model
    ),
    "request.tool": Variable(
        "string", 'of call_tool: the tool\'s name; else ""', _resource("call_tool")
    ),
    "request.endpoint": Variable(
        "string", 'of use_endpoint: the endpoint\'s host; else ""', _resource("use_endpoint")
    ),
    "request.secret": Variable(
        "string", 'of use_secret: the secret\'s name; else ""', _resource("use_secret")
    ),
    "request.data_class": Variable(
        "string", 'the caller\'s label of the data; "" when there is none', lambda r: r.data_class
    ),
    "request.max_tokens": Variable(
        "int",
        f"tokens of answer asked for; {UNBOUNDED} when the request names no maximum",
        lambda r: UNBOUNDED if r.max_tokens is None else r.max_tokens,
        low=0,
    ),
    "request.stream": Variable("bool", "whether the answer is streamed", lambda r: r.stream),
    "request.schema": Variable(
        "bool",
        "whether the answer is to be JSON of a schema that the caller gave",
        lambda r: r.schema,
    ),
    "request.message_count": Variable(
        "int", "messages of a chat; 0 for other actions", lambda r: r.message_count, low=0
    ),
    "request.inputs": Variable(
        "int", "messages, texts, documents or tensors that were sent", lambda r: r.inputs, low=0
    ),
    "request.prompt_bytes": Variable(
        "int", "size of what the caller sent, in bytes", lambda r: r.prompt_bytes, low=0
    ),
    "request.tools": Variable(
        "list(string)", "names of the tools that the caller offers", lambda r: list(r.tools)
    ),
    "request.priority": Variable(
        "string", "interactive or batch", lambda r: r.priority, ("interactive", "batch")
    ),
    "subject.id": Variable("string", "the caller's public id", lambda r: r.subject),
    "subject.roles": Variable("list(string)", "the caller's roles", lambda r: list(r.roles)),
    "model.runtime": Variable(
        "string",
        'llama, onnx, lora or remote; "" for a route',
        lambda r: r.facts.runtime,
        ("", "llama", "onnx", "lora", "remote"),
    ),
    "model.provider": Variable(
        "string",
        'cpu or cuda; of a remote model its endpoint\'s provider; "" for a route',
        lambda r: r.facts.provider,
    ),
    "model.remote": Variable(
        "bool", "whether asking it sends data off the machine", lambda r: r.facts.remote
    ),
    "model.context_tokens": Variable(
        "int", "its context; 0 when not known", lambda r: r.facts.context_tokens, low=0
    ),
    "data.personal": Variable(
        "list(string)",
        "kinds of personal data found in what was sent (see Redaction)",
        lambda r: list(r.personal),
    ),
    "data.injection": Variable(
        "int",
        "how much of what was sent reads like an attempt to give the model other orders, 0..100",
        lambda r: r.injection,
        low=0,
        high=100,
    ),
    "run.workflow": Variable(
        "string", 'the caller\'s word for the workflow; "" when there is none', lambda r: r.workflow
    ),
    "run.id": Variable(
        "string", 'the caller\'s id of one run of it; "" when there is none', lambda r: r.run
    ),
    "time.minute": Variable("int", "0..59, UTC", lambda r: r.minute, low=0, high=59),
    "time.hour": Variable("int", "0..23, UTC", lambda r: r.hour, low=0, high=23),
    "time.weekday": Variable(
        "int", "0 Monday .. 6 Sunday, UTC", lambda r: r.weekday, low=0, high=6
    ),
    "time.day": Variable("int", "1..31, UTC", lambda r: r.day, low=1, high=31),
    "time.month": Variable("int", "1..12, UTC", lambda r: r.month, low=1, high=12),
    "time.year": Variable("int", "such as 2027, UTC", lambda r: r.year, low=1970, high=9999),
}


CONTENT = frozenset(name for name in VARIABLES if name.startswith("data."))
"""Names that say what is in what was sent: somebody has to look before a condition sees them."""


def activation(request: Request, names: Collection[str] | None = None) -> dict[str, Value]:
    """The request as conditions see it: these of the declared names; None: all of them."""
    wanted = VARIABLES if names is None else names
    return {name: VARIABLES[name].read(request) for name in wanted}
