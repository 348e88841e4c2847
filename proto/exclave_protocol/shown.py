"""The text that a reviewer is shown of a decision that waits: the same from the same records.

What comes from a record's values stands behind `| `, and characters that could move, hide or
recolour text are written out, so that nothing shown can pose as anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .approval import Requirement
from .canonical import JsonValue
from .leaf import Leaf, format_time

FIELDS = ("prompt", "context", "options")
"""Private fields of an INTENT that are shown, in this order."""


def render(
    intent: Leaf,
    result: Leaf,
    values: Mapping[str, JsonValue],
    answer: JsonValue,
    requires: Sequence[Requirement],
    acts: Iterable[Leaf],
) -> str:
    """The text. `values`: the opened `FIELDS`; `answer`: what may be given, None: there is none;
    `acts`: the reviewers' acts so far, as their leaves."""
    return "\n".join(_lines(intent, result, values, answer, requires, acts)) + "\n"


def _lines(
    intent: Leaf,
    result: Leaf,
    values: Mapping[str, JsonValue],
    answer: JsonValue,
    requires: Sequence[Requirement],
    acts: Iterable[Leaf],
) -> Iterator[str]:
    asked, ended = intent.body, result.body
    yield f"decision {_word(asked.get('decision'))} of {_word(intent.log)}"
    yield f"records {intent.seq} ({format_time(intent.time_ns)}) and {result.seq}"
    yield f"action {_word(asked.get('action'))}, by key {_inner(asked.get('actor'), 'key')}"
    yield f"model {_inner(ended.get('model') or asked.get('model'), 'name')}"
    yield f"rule {_inner(asked.get('policy'), 'rule')}, data {_word(asked.get('data_class'))}"
    for each in requires:
        apart = ", not who asked" if each.separate else ""
        named = f"{_plain(each.approval)} {_plain(each.version)}"
        yield f"waits for {named}: {each.count} different people{apart}"
    guards = ended.get("guards")
    failed = guards.get("failed") if isinstance(guards, dict) else None
    for found in failed if isinstance(failed, list) else ():
        yield f"found by {_inner(found, 'validator')}: {_inner(found, 'reason')}"
    for act in acts:
        body = act.body
        yield f"record {act.seq}: {_word(body.get('act'))} by {_word(body.get('reviewer'))}"
    if FIELDS[0] not in values:
        yield "prompt: not kept any more"
    for name in FIELDS:
        value = values.get(name)
        if value not in (None, [], {}, ""):
            yield f"{name}:"
            yield from _value(value)
    yield "answer:" if answer is not None else "answer: none was made"
    if answer is not None:
        yield from _value(answer)


def _value(value: JsonValue) -> Iterator[str]:
    """A value behind its bar; messages as people read them, anything else as JSON."""
    if isinstance(value, list) and value and all(map(_is_message, value)):
        for message in value:
            assert isinstance(message, dict), "just looked at"
            yield f"| {_plain(str(message['role']))}:"
            yield from (f"|   {line}" for line in _split(str(message["content"])))
        return
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
    yield from (f"| {line}" for line in _split(value))


def _is_message(value: JsonValue) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and all(isinstance(each, str) for each in value.values())
    )


def _split(text: str) -> list[str]:
    return [_plain(line) for line in text.split("\n")]


def _plain(text: str) -> str:
    r"""What is not printable, as `\u{hex}`; a backslash twice."""
    return "".join(
        "\\\\" if char == "\\" else char if char.isprintable() else f"\\u{{{ord(char):x}}}"
        for char in text
    )


def _word(value: JsonValue) -> str:
    return _plain(value) if isinstance(value, str) and value else "none"


def _inner(value: JsonValue, name: str) -> str:
    return _word(value.get(name) if isinstance(value, dict) else None)
